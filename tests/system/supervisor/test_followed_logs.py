"""A followed log goes on with the next instance, and says so in lines that no plugin can have printed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.harness import TIMEOUT, Harness, eventually

NOTE = "--- "


class Followed:
    """What a reader has received so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = False

    @property
    def shown(self) -> list[str]:
        """Without the times of the container's lines."""
        return [line if line.startswith(NOTE) else line.partition(" ")[2] for line in self.lines]

    async def until(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                while not condition():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"the log has {self.lines}") from None


@asynccontextmanager
async def following(harness: Harness, name: str, tail: int = 100, **query: int | str) -> AsyncIterator[Followed]:
    followed = Followed()

    async def read() -> None:
        url, params = f"/v1/plugins/{name}/logs", {"follow": "true", "tail": tail, **query}
        async with harness.client.stream("GET", url, params=params, timeout=None) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                followed.lines.append(line)
        followed.ended = True

    task = asyncio.create_task(read())
    try:
        yield followed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_goes_on_with_the_next_instance(harness: Harness) -> None:
    """Each end and each new instance is a note; nothing is told twice."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.instance("reader").handle.log("one")
    async with following(harness, "reader") as log:
        await log.until(lambda: log.shown == ["one"])
        harness.instance("reader").handle.log("--- no note")
        await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})
        harness.instance("reader").handle.log("two")
        await log.until(lambda: "two" in log.shown)
    stopped = "An operator restarted it: a new instance is on its way."
    assert log.shown == [
        "one",
        "--- no note",
        f"--- instance 1 ended: STOPPED: {stopped} ---",
        "--- instance 2 ---",
        "two",
    ]
    assert [line for line in log.lines if line.startswith(NOTE)] == log.shown[2:4], "only its notes begin so"


async def test_it_waits_after_a_failure_until_an_operator_starts_it_again(harness: Harness) -> None:
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    async with following(harness, "reader") as log:
        harness.instance("reader").handle.log("last words")
        harness.instance("reader").leave(3)
        await log.until(lambda: any("ended" in line for line in log.shown))
        assert log.shown[0] == "last words"
        assert log.shown[1].startswith("--- instance 1 ended: EXITED: ")
        await harness.client.post("/v1/plugins/reader/start", params={"wait": 5})
        harness.instance("reader").handle.log("again")
        await log.until(lambda: log.shown[-1] == "again")
    assert log.shown[2:] == ["--- instance 2 ---", "again"]


async def test_it_may_begin_when_the_instance_has_ended(harness: Harness) -> None:
    """With its last lines, as many as requested."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    for number in range(5):
        harness.instance("reader").handle.log(f"line {number}")
    await harness.client.post("/v1/plugins/reader/stop")
    async with following(harness, "reader", tail=2) as log:
        await log.until(lambda: len(log.lines) == 3)
        assert log.shown[:2] == ["line 3", "line 4"]
        assert log.shown[2].startswith("--- instance 1 ended: STOPPED: ")
        await harness.client.post("/v1/plugins/reader/start", params={"wait": 5})
        for number in range(5):
            harness.instance("reader").handle.log(f"next {number}")
        await log.until(lambda: log.shown[-1] == "next 4")
    assert log.shown[3:] == ["--- instance 2 ---", *(f"next {number}" for number in range(5))], "all of the next"


async def test_it_waits_for_an_instance_without_a_container_and_says_so(harness: Harness) -> None:
    harness.add("reader")
    build = asyncio.Event()
    create = harness.engine.create

    async def slow_create(spec: object, **options: object) -> str:
        await build.wait()
        return await create(spec, **options)  # type: ignore[arg-type]

    harness.engine.create = slow_create  # type: ignore[assignment, method-assign]
    harness.engine._bound = TIMEOUT
    await harness.open()
    async with following(harness, "reader") as log:
        await log.until(lambda: log.shown == ["--- instance 1 has no container yet; waiting for it ---"])
        build.set()
        await harness.settled("reader")
        harness.instance("reader").handle.log("here")
        await log.until(lambda: log.shown[1:] == ["here"])


async def test_a_plugin_that_never_had_an_instance_is_awaited(harness: Harness) -> None:
    harness.write_raw("reader", "version: [")
    await harness.open()
    await harness.until_state("reader", "FAILED")
    async with following(harness, "reader") as log:
        await log.until(lambda: log.shown == ["--- no instance; waiting for one ---"])
        harness.add("reader")
        await harness.client.post("/v1/plugins/reader/start", params={"wait": 5})
        harness.instance("reader").handle.log("here")
        await log.until(lambda: log.shown[-1:] == ["here"])


async def test_an_instance_without_a_container_at_its_end_shows_the_output_of_its_build(harness: Harness) -> None:
    harness.add("reader", image="base")
    harness.engine.image_store.build_error = "no such package"
    await harness.open()
    await harness.until_removed("reader")
    async with following(harness, "reader") as log:
        await log.until(lambda: any("BUILD_FAILED" in line for line in log.lines))


@pytest.mark.parametrize("breaks", [1, 3])
async def test_a_stream_of_the_engine_that_breaks_off_loses_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, breaks: int
) -> None:
    """And repeats nothing."""
    monkeypatch.setattr("orchestrator.supervisor.logs._REOPEN_PAUSE", 0.05)
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    whole, opened = harness.engine.follow_logs, 0

    @asynccontextmanager
    async def broken(container_id: str, *, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        nonlocal opened
        opened += 1
        async with whole(container_id, tail=tail) as lines:

            async def some() -> AsyncIterator[str]:
                left = 3
                async for line in lines:
                    yield line
                    left -= 1
                    if not left and opened <= breaks:
                        return

            yield some()

    monkeypatch.setattr(harness.engine, "follow_logs", broken)
    for number in range(20):
        harness.instance("reader").handle.log(f"line {number}")
        await asyncio.sleep(0)
    async with following(harness, "reader") as log:
        await log.until(lambda: "line 19" in log.shown)
    assert log.shown == [f"line {number}" for number in range(20)]
    assert opened > breaks


async def test_a_container_that_cannot_be_stopped_does_not_hold_it_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may print for ever; the next instance's lines follow all the same."""
    monkeypatch.setattr("orchestrator.supervisor.logs._LEFT_BEHIND", 0.05)
    harness.add("reader", ignore_sigterm=True)
    await harness.open()
    await harness.settled("reader")
    async with following(harness, "reader") as log:
        harness.engine.refuse = {"stop": "no", "kill": "no", "remove": "no"}
        await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})
        harness.instance("reader").handle.log("of the next")
        await log.until(lambda: log.shown[-1:] == ["of the next"])
    harness.engine.refuse = {}


async def test_it_ends_when_the_plugin_is_removed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.supervisor.fleet._FOLDERS_INTERVAL", 0.05)
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    async with following(harness, "reader") as log:
        harness.remove("reader")
        await harness.client.post("/v1/plugins/reader/stop")
        await log.until(lambda: log.ended)
    assert log.shown[-1] == "--- the plugin was removed ---"


async def test_its_reader_may_leave_at_any_time(harness: Harness) -> None:
    """Nothing of it stays behind."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with following(harness, "reader") as log:
            harness.instance("reader").handle.log("a line")
            await log.until(lambda: bool(log.lines))
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 1, "its tasks end")


async def test_the_last_lines_are_there_where_the_engine_gave_no_stream(harness: Harness) -> None:
    """From the post-mortem, once the container has ended."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.engine.refuse = {"follow_logs": "too many streams"}
    async with following(harness, "reader") as log:
        harness.instance("reader").handle.log("last words")
        harness.instance("reader").leave(3)
        await log.until(lambda: len(log.lines) == 2)
    assert log.shown[0] == "last words"
    assert log.shown[1].startswith("--- instance 1 ended: EXITED: ")
    harness.engine.refuse = {}


async def test_of_several_the_newest_is_followed_and_named(harness: Harness) -> None:
    harness.add("reader", replicas=3)
    await harness.open()
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 3)
    async with following(harness, "reader") as log:
        await log.until(lambda: log.shown[:1] == ["--- instance 3, the newest; 1, 2 not followed ---"])


async def test_one_of_several_is_followed_to_its_end(harness: Harness) -> None:
    """Its own lines alone; then the stream ends."""
    runtime = harness.add("reader", replicas=2)
    await harness.open()
    health = await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    async with following(harness, "reader", generation=1) as log:
        containers = {each["generation"]: each["container"] for each in health["instances"]}
        for generation in (2, 1):
            name = containers[generation]["name"]
            next(each for each in runtime.instances if each.spec.name == name).handle.log(f"of {generation}")
        await log.until(lambda: log.shown == ["of 1"])
        await harness.engine.kill(containers[1]["name"])
        await log.until(lambda: log.ended)
        assert log.shown[0] == "of 1"
        assert log.shown[-1].startswith("--- instance 1 ended: KILLED: ")
        assert len(log.shown) == 2
    answer = await harness.client.get("/v1/plugins/reader/logs", params={"follow": "true", "generation": 7})
    assert (answer.status_code, answer.json()["error_type"]) == (404, "NoInstance")


async def test_all_instances_are_followed_at_once(harness: Harness) -> None:
    """Each line says of which it is; what begins and ends meanwhile is a note."""
    harness.add("reader", replicas=2)
    await harness.open()
    health = await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    handles = {each["generation"]: log_of(harness, each["container"]["name"]) for each in health["instances"]}
    handles[1]("one")
    async with following(harness, "reader", generation="all") as log:
        await log.until(lambda: log.shown == ["[1] one"])
        handles[2]("two")
        await log.until(lambda: log.shown[-1] == "[2] two")
        handles[1]("--- three")
        await log.until(lambda: log.shown[-1] == "[1] --- three")
        await harness.client.post("/v1/plugins/reader/scale", json={"replicas": 3}, params={"wait": 5})
        health = await harness.health("reader")
        log_of(harness, health["instances"][-1]["container"]["name"])("four")
        await log.until(lambda: log.shown[-1] == "[3] four")
        assert log.shown[-2] == "--- instance 3 ---"
        whole = (await harness.client.get("/v1/plugins/reader/logs", params={"generation": "all"})).text
        assert [line.partition(" ")[2] for line in whole.splitlines()] == [
            "[1] one",
            "[2] two",
            "[1] --- three",
            "[3] four",
        ]
        await harness.client.post("/v1/plugins/reader/stop")
        await log.until(lambda: sum(" ended: STOPPED: " in line for line in log.shown) == 3)
    last = (await harness.client.get("/v1/plugins/reader/logs", params={"generation": "all", "tail": 1})).text
    assert last.endswith(" [3] four\n") and last.count("\n") == 1
    answer = await harness.client.get("/v1/plugins/reader/logs", params={"generation": "some"})
    assert answer.status_code == 422


def log_of(harness: Harness, container: str) -> Callable[[str], None]:
    """Prints a line in this container."""
    found = (each for each in harness.engine._containers.values() if each.status.name.startswith(container))
    return next(found)._handle.log
