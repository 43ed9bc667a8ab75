"""Runs that wait in the queue: which starts next, which is refused, which leaves."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import httpx
import pytest
from support.harness import TIMEOUT, Harness
from test_tool_runner.ready_plugins import double, ready

from orchestrator.api import body


async def test_a_full_queue_sends_away(harness: Harness) -> None:
    """429 with the time after which to try again; who is in runs or waits on."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait}, concurrency=1, queue=2)
    await ready(harness, "reader")
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(3)]
    await harness.until("reader", lambda health: health["queued"] == 2)
    refused = await harness.run("reader", "read")
    go_on.set()
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert (refused.json()["ok"], refused.json()["error_type"]) == (False, "QueueFull")
    assert [(await run).status_code for run in runs] == [200] * 3
    health = await harness.health("reader")
    assert (health["success_count"], health["error_count"], health["queued"]) == (3, 0, 0)


async def test_first_come_is_first_served(harness: Harness) -> None:
    """In the order of the requests."""
    served: list[int] = []
    gate = asyncio.Event()

    async def read(number: int) -> None:
        served.append(number)
        await gate.wait()

    harness.add("reader", tools={"read": read})
    await ready(harness, "reader")
    runs = []
    for number in range(5):
        runs.append(asyncio.create_task(harness.run("reader", "read", number=number)))
        await harness.until("reader", lambda health, n=number: health["in_flight"] + health["queued"] == n + 1)  # type: ignore[misc]
    gate.set()
    await asyncio.gather(*runs)
    assert served == [0, 1, 2, 3, 4]


async def test_as_many_run_at_once_as_the_manifest_allows(harness: Harness) -> None:
    """Never one more."""
    now, most = 0, 0

    async def read() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    harness.add("reader", tools={"read": read}, concurrency=3, queue=100)
    await ready(harness, "reader")
    answers = await asyncio.gather(*(harness.run("reader", "read") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert most == 3


async def test_runs_that_wait_when_the_plugin_dies_have_the_reason(harness: Harness) -> None:
    """503 at once, with the reason that it died of; the one in flight has 502."""
    harness.add("reader", tools={"hang": asyncio.Event().wait})
    await ready(harness, "reader")
    runs = [asyncio.create_task(harness.run("reader", "hang")) for _ in range(4)]
    await harness.until("reader", lambda health: health["queued"] == 3)
    await harness.instance("reader").worker_exits(exit_code=3)
    answers = [await run for run in runs]
    assert sorted(answer.status_code for answer in answers) == [502, 503, 503, 503]
    assert {answer.json()["reason_code"] for answer in answers} == {"EXITED"}
    assert (await harness.health("reader"))["queued"] == 0


async def test_runs_that_wait_when_an_operator_stops_the_plugin_are_answered_503(harness: Harness) -> None:
    """Nobody is to blame: 503 for all."""
    harness.add("reader", tools={"hang": asyncio.Event().wait})
    await ready(harness, "reader")
    runs = [asyncio.create_task(harness.run("reader", "hang")) for _ in range(3)]
    await harness.until("reader", lambda health: health["queued"] == 2)
    stopped = await harness.client.post("/v1/plugins/reader/stop")
    answers = [await run for run in runs]
    assert (stopped.json()["state"], stopped.json()["reason_code"]) == ("UNAVAILABLE", "STOPPED")
    assert [(a.status_code, a.json()["reason_code"]) for a in answers] == [(503, "STOPPED")] * 3


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
async def test_a_caller_that_leaves_the_queue_makes_room(harness: Harness, accept: str) -> None:
    """Its run never starts."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait}, queue=1)
    await ready(harness, "reader")
    first = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    route = "/v1/plugins/reader/tools/read/run"
    waiting = asyncio.create_task(harness.client.post(route, json={}, headers={"accept": accept}))
    await harness.until("reader", lambda health: health["queued"] == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    try:
        await harness.until("reader", lambda health: health["queued"] == 0)
    finally:
        go_on.set()
    assert (await first).status_code == 200
    assert len(harness.instance("reader").run_ids) == 1


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
async def test_a_caller_that_leaves_while_the_plugin_starts_has_no_run(harness: Harness, accept: str) -> None:
    """Its slot is free before the plugin is ready."""
    ready = asyncio.Event()
    harness.add("reader", tools={"double": double}).before_ready = ready.wait
    await harness.open()
    route = "/v1/plugins/reader/tools/double/run"
    waiting = asyncio.create_task(harness.client.post(route, json={"number": 1}, headers={"accept": accept}))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    ready.set()
    await harness.settled("reader")
    assert (await harness.run("reader", "double", number=2)).json()["result"] == 4
    assert len(harness.instance("reader").run_ids) == 1


async def test_a_caller_that_leaves_in_the_middle_of_a_run_does_not_end_it(harness: Harness) -> None:
    """A tool cannot be stopped short of its container: it goes on, counts, and occupies its slot until then."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait}, queue=1)
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await asyncio.sleep(0.05)
    still = await harness.health("reader")
    go_on.set()
    after = await harness.until("reader", lambda health: health["in_flight"] == 0)
    assert (still["in_flight"], after["state"], after["success_count"]) == (1, "RUNNING", 1)


# Uploads that wait: more than sockets hold, so that a caller is stuck where nobody reads

UPLOAD = b"x" * 30_000_000


@pytest.fixture
async def busy(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """A plugin whose only place is taken until the event is set; what waits is stored soon."""
    monkeypatch.setattr(body, "SPOOL_AFTER", 0.2)
    go_on = asyncio.Event()
    harness.add("reader", tools={"hold": go_on.wait, "weigh": size_of}, concurrency=1)
    await ready(harness, "reader")
    holding = asyncio.create_task(harness.run("reader", "hold"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    yield go_on
    go_on.set()
    await holding


def size_of(file: bytes) -> int:
    return len(file)


def files(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    async def sent() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return sent()


async def weigh(harness: Harness, content: AsyncIterator[bytes]) -> httpx.Response:
    headers = {"Content-Type": "application/octet-stream"}
    return await harness.client.post("/v1/plugins/reader/tools/weigh/run", content=content, headers=headers)


async def test_an_upload_that_waits_is_taken_from_its_caller(harness: Harness, busy: asyncio.Event) -> None:
    """And is whole when its turn comes."""
    taken = asyncio.Event()

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(UPLOAD), 1_000_000):
            yield UPLOAD[at : at + 1_000_000]
        taken.set()

    call = asyncio.create_task(weigh(harness, files(pieces())))
    async with asyncio.timeout(TIMEOUT * 2):
        await taken.wait()
    assert (await harness.health("reader"))["queued"] == 1
    busy.set()
    answer = (await call).json()
    assert answer["result"] == len(UPLOAD), answer


async def test_one_whose_turn_comes_in_the_middle_is_whole_too(harness: Harness, busy: asyncio.Event) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for number in range(6):
            yield UPLOAD[:5_000_000]
            if number == 3:
                busy.set()
            await asyncio.sleep(0.1)

    assert (await weigh(harness, slowly())).json()["result"] == len(UPLOAD)


async def test_a_caller_that_leaves_after_its_upload_leaves_the_queue(harness: Harness, busy: asyncio.Event) -> None:
    call = asyncio.create_task(weigh(harness, files([UPLOAD])))
    await harness.until("reader", lambda health: health["queued"] == 1)
    await asyncio.sleep(0.5)
    call.cancel()
    await harness.until("reader", lambda health: health["queued"] == 0)
    busy.set()
