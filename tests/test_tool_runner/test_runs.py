"""A run from request to envelope."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from support.house import House, eventually
from support.scripted_tools import InvalidInput

ENVELOPE = {
    "ok", "result", "error", "error_type", "reason_code", "source", "plugin", "tool", "run_id", "execution_time_ms",
}  # fmt: skip


def double(number: int) -> int:
    return number * 2


def refuse(text: str) -> str:
    raise InvalidInput(f"{text!r} is no number")


def fail() -> None:
    raise ZeroDivisionError("division by zero")


async def ready(house: House, *names: str) -> None:
    await house.open()
    for name in names:
        await house.settled(name)


async def test_a_run_answers_with_its_result(house: House) -> None:
    """200, the whole envelope, and the run's id also in a header."""
    house.add("reader", tools={"double": double})
    await ready(house, "reader")
    answer = await house.run("reader", "double", number=21)
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == ENVELOPE
    assert (body["ok"], body["result"], body["error"], body["source"]) == (True, 42, None, "plugin")
    assert (body["plugin"], body["tool"]) == ("reader", "double")
    assert body["execution_time_ms"] >= 0
    assert body["run_id"] == answer.headers["X-Run-Id"] == house.instance("reader").run_ids[0]


async def test_a_run_waits_for_a_plugin_on_its_way_up(house: House) -> None:
    """The caller need not look at the state first."""
    house.add("reader", tools={"double": double}, start=[(0.2, {"phase": "ready"})])
    await house.open()
    assert (await house.run("reader", "double", number=1)).json()["result"] == 2


MISTAKES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("a parameter too many", "double", {"json": {"number": 1, "colour": 2}}, 422, "colour"),
    ("a parameter too few", "double", {"json": {}}, 422, "number"),
    ("what the tool refuses", "refuse", {"json": {"text": "four"}}, 422, "'four' is no number"),
    ("no JSON", "double", {"content": b"{number", "headers": {"content-type": "application/json"}}, 400, ""),
    ("a list", "double", {"json": [1]}, 400, "object"),
    ("a tool that there is not", "halve", {"json": {}}, 404, "double, fail, refuse"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "request_", "status", "phrase"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
async def test_a_callers_mistake_leaves_the_plugin_alive(
    house: House, tool: str, request_: dict[str, Any], status: int, phrase: str
) -> None:
    """The caller is told; the plugin goes on and counts neither success nor error."""
    house.add("reader", tools={"double": double, "refuse": refuse, "fail": fail})
    await ready(house, "reader")
    answer = await house.client.post(f"/v1/plugins/reader/tools/{tool}/run", **request_)
    health = await house.health("reader")
    assert answer.status_code == status
    assert answer.json()["ok"] is False
    assert phrase in answer.json()["error"]
    assert health["state"] in {"INITIALIZED", "RUNNING"}
    assert (health["success_count"], health["error_count"], health["in_flight"]) == (0, 0, 0)
    assert (await house.run("reader", "double", number=2)).json()["result"] == 4


async def test_a_plugin_that_there_is_not_is_404(house: House) -> None:
    """In the same envelope as everything."""
    await house.open()
    answer = await house.run("nobody", "read")
    assert answer.status_code == 404
    assert set(answer.json()) == ENVELOPE
    assert "nobody" in answer.json()["error"]


async def test_an_unknown_tool_is_named_in_short(house: House) -> None:
    """Its type says what is wrong; a name without end does not come back whole."""
    house.add("reader", tools={"double": double})
    await ready(house, "reader")
    body = (await house.run("reader", "x" * 5000)).json()
    assert body["error_type"] == "UnknownTool"
    assert "'" + "x" * 80 + "'" in body["error"]
    assert len(body["error"]) < 200


async def test_a_plugin_without_limits_is_unavailable(house: House) -> None:
    """Whose manifest is not valid has none; a run at any moment is an answer, no defect."""
    house.write_raw("reader", "version: [")
    await house.open()
    registry = house.registry
    registry.renew("reader", limits={})
    answer = await house.run("reader", "double", number=1)
    assert (answer.status_code, answer.json()["error_type"]) == (503, "PluginUnavailable")


async def test_a_tool_that_raises_fails_its_plugin(house: House) -> None:
    """502 with the tool's own error; then FAILED, gone, and 503 with the reason."""
    house.add("reader", tools={"fail": fail})
    await ready(house, "reader")
    answer = await house.run("reader", "fail")
    health = await house.buried("reader")
    after = await house.run("reader", "fail")
    assert answer.status_code == 502
    assert (answer.json()["error_type"], answer.json()["reason_code"]) == ("ZeroDivisionError", "TOOL_ERROR")
    assert answer.json()["source"] == "plugin"
    assert "Traceback" not in answer.text
    assert (health["state"], health["reason_code"]) == ("FAILED", "TOOL_ERROR")
    assert "division by zero" in health["reason"]
    assert "ZeroDivisionError" in health["post_mortem"]["traceback"]
    assert (after.status_code, after.json()["error"]) == (503, health["reason"])
    assert after.json()["error_type"] == "PluginUnavailable"
    assert await house.containers("reader") == []


async def test_a_tolerant_plugin_outlives_its_tools_errors(house: House) -> None:
    """They are counted and reported all the same."""
    house.add("reader", tools={"fail": fail, "double": double}, failure_policy="tolerant")
    await ready(house, "reader")
    answers = [await house.run("reader", "fail") for _ in range(3)]
    health = await house.health("reader")
    assert [(a.status_code, a.json()["reason_code"]) for a in answers] == [(502, "TOOL_ERROR")] * 3
    assert (health["state"], health["error_count"], health["reason"]) == ("RUNNING", 3, None)
    assert (await house.run("reader", "double", number=1)).status_code == 200


@pytest.mark.parametrize("policy", ["strict", "tolerant"])
async def test_a_crash_is_final_under_either_policy(house: House, policy: str) -> None:
    """The run in flight is told why, and so is everyone after."""
    house.add("reader", tools={"hang": asyncio.Event().wait}, failure_policy=policy)
    await ready(house, "reader")
    run = asyncio.create_task(house.run("reader", "hang"))
    await house.until("reader", lambda health: health["in_flight"] == 1)
    await house.instance("reader").worker_exits(signal=11)
    answer = await run
    health = await house.buried("reader")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "CRASHED")
    assert (health["state"], health["reason_code"]) == ("FAILED", "CRASHED")
    assert health["post_mortem"]["signal"] == "SIGSEGV"


async def test_a_full_queue_sends_away(house: House) -> None:
    """429 with the time after which to try again; who is in runs or waits on."""
    go_on = asyncio.Event()
    house.add("reader", tools={"read": go_on.wait}, concurrency=1, queue=2)
    await ready(house, "reader")
    runs = [asyncio.create_task(house.run("reader", "read")) for _ in range(3)]
    await house.until("reader", lambda health: health["queued"] == 2)
    refused = await house.run("reader", "read")
    go_on.set()
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert (refused.json()["ok"], refused.json()["error_type"]) == (False, "QueueFull")
    assert [(await run).status_code for run in runs] == [200] * 3
    health = await house.health("reader")
    assert (health["success_count"], health["error_count"], health["queued"]) == (3, 0, 0)


async def test_first_come_is_first_served(house: House) -> None:
    """In the order of asking."""
    served: list[int] = []
    gate = asyncio.Event()

    async def read(number: int) -> None:
        served.append(number)
        await gate.wait()

    house.add("reader", tools={"read": read})
    await ready(house, "reader")
    runs = []
    for number in range(5):
        runs.append(asyncio.create_task(house.run("reader", "read", number=number)))
        await house.until("reader", lambda health, n=number: health["in_flight"] + health["queued"] == n + 1)  # type: ignore[misc]
    gate.set()
    await asyncio.gather(*runs)
    assert served == [0, 1, 2, 3, 4]


async def test_as_many_run_at_once_as_the_manifest_allows(house: House) -> None:
    """Never one more."""
    now, most = 0, 0

    async def read() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    house.add("reader", tools={"read": read}, concurrency=3, queue=100)
    await ready(house, "reader")
    answers = await asyncio.gather(*(house.run("reader", "read") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert most == 3


async def test_runs_that_wait_when_the_plugin_dies_are_told_why(house: House) -> None:
    """503 at once, with the reason that it died of; the one in flight has 502."""
    house.add("reader", tools={"hang": asyncio.Event().wait})
    await ready(house, "reader")
    runs = [asyncio.create_task(house.run("reader", "hang")) for _ in range(4)]
    await house.until("reader", lambda health: health["queued"] == 3)
    await house.instance("reader").worker_exits(exit_code=3)
    answers = [await run for run in runs]
    assert sorted(answer.status_code for answer in answers) == [502, 503, 503, 503]
    assert {answer.json()["reason_code"] for answer in answers} == {"EXITED"}
    assert (await house.health("reader"))["queued"] == 0


async def test_runs_that_wait_when_an_operator_stops_the_plugin_are_told_so(house: House) -> None:
    """Nobody is to blame: 503 for all."""
    house.add("reader", tools={"hang": asyncio.Event().wait})
    await ready(house, "reader")
    runs = [asyncio.create_task(house.run("reader", "hang")) for _ in range(3)]
    await house.until("reader", lambda health: health["queued"] == 2)
    stopped = await house.client.post("/v1/plugins/reader/stop")
    answers = [await run for run in runs]
    assert (stopped.json()["state"], stopped.json()["reason_code"]) == ("UNAVAILABLE", "STOPPED")
    assert [(a.status_code, a.json()["reason_code"]) for a in answers] == [(503, "STOPPED")] * 3


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
async def test_a_caller_that_leaves_the_queue_makes_room(house: House, accept: str) -> None:
    """Its run never begins."""
    go_on = asyncio.Event()
    house.add("reader", tools={"read": go_on.wait}, queue=1)
    await ready(house, "reader")
    first = asyncio.create_task(house.run("reader", "read"))
    await house.until("reader", lambda health: health["in_flight"] == 1)
    route = "/v1/plugins/reader/tools/read/run"
    waiting = asyncio.create_task(house.client.post(route, json={}, headers={"accept": accept}))
    await house.until("reader", lambda health: health["queued"] == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    try:
        await house.until("reader", lambda health: health["queued"] == 0)
    finally:
        go_on.set()
    assert (await first).status_code == 200
    assert len(house.instance("reader").run_ids) == 1


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
async def test_a_caller_that_leaves_while_the_plugin_starts_has_no_run(house: House, accept: str) -> None:
    """Its place is free before the plugin is ready."""
    house.add("reader", tools={"double": double}, start=[(0.4, {"phase": "ready"})])
    await house.open()
    route = "/v1/plugins/reader/tools/double/run"
    waiting = asyncio.create_task(house.client.post(route, json={"number": 1}, headers={"accept": accept}))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await house.settled("reader")
    assert (await house.run("reader", "double", number=2)).json()["result"] == 4
    assert len(house.instance("reader").run_ids) == 1


async def test_a_caller_that_leaves_in_the_middle_of_a_run_does_not_end_it(house: House) -> None:
    """A tool cannot be stopped short of its container: it goes on, counts, and holds its place until then."""
    go_on = asyncio.Event()
    house.add("reader", tools={"read": go_on.wait}, queue=1)
    await ready(house, "reader")
    run = asyncio.create_task(house.run("reader", "read"))
    await house.until("reader", lambda health: health["in_flight"] == 1)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await asyncio.sleep(0.05)
    still = await house.health("reader")
    go_on.set()
    after = await house.until("reader", lambda health: health["in_flight"] == 0)
    assert (still["in_flight"], after["state"], after["success_count"]) == (1, "RUNNING", 1)


async def test_an_uploaded_file_arrives_byte_for_byte(house: House) -> None:
    """As a raw body, in a form, as base64 in JSON, and in chunks of unknown length."""
    picture = bytes(range(256)) * 4000

    def measure(image: bytes, scale: int = 1) -> list[int]:
        return [len(image) * scale, sum(image)]

    async def chunks() -> Any:
        for start in range(0, len(picture), 100_000):
            yield picture[start : start + 100_000]

    house.add("reader", tools={"measure": measure})
    await ready(house, "reader")
    route, expected = "/v1/plugins/reader/tools/measure/run", [2 * len(picture), sum(picture)]
    raw = {"content-type": "image/png"}
    answers = [
        await house.client.post(route, params={"scale": 2}, content=picture, headers=raw),
        await house.client.post(route, params={"scale": 2}, content=chunks(), headers=raw),
        await house.client.post(route, files={"image": ("a.png", picture)}, data={"scale": "2"}),
        await house.run("reader", "measure", image=base64.b64encode(picture).decode(), scale=2),
    ]
    assert [answer.json()["result"] for answer in answers] == [expected] * 4


async def test_a_body_over_the_limit_is_refused(house: House) -> None:
    """Announced or not, before the plugin has to bear it; the plugin goes on."""

    def measure(image: Path) -> int:
        return image.stat().st_size

    async def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 100_000

    house.add("reader", tools={"measure": measure}, limits={"scratch": "1MiB"})
    await ready(house, "reader")
    route = "/v1/plugins/reader/tools/measure/run"
    announced = await house.client.post(route, content=b"x" * 3_000_000, headers={"content-type": "image/png"})
    streamed = await house.client.post(route, content=chunks(), headers={"content-type": "image/png"})
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert {announced.json()["error_type"], streamed.json()["error_type"]} == {"TooLarge"}
    assert "limits.scratch" in announced.json()["error"]
    health = await house.health("reader")
    assert (health["state"] in {"INITIALIZED", "RUNNING"}, health["error_count"]) == (True, 0)
    small = await house.client.post(route, content=b"x" * 1000, headers={"content-type": "image/png"})
    assert small.json()["result"] == 1000


@pytest.mark.parametrize("query", ["a=%zz", "%00", "a=b=c&&&", "%FF", "[", "a#b", "+" * 500])
async def test_no_query_hurts_the_plugin(house: House, query: str) -> None:
    """It is passed on as it is, or refused."""
    house.add("reader", tools={"double": double})
    await ready(house, "reader")
    await house.client.post(f"/v1/plugins/reader/tools/double/run?{query}", json={"number": 1})
    assert (await house.run("reader", "double", number=1)).status_code == 200


@pytest.mark.parametrize("content_type", ["", "nonsense", "multipart/form-data", "text/html; charset=\x7f", "a/b; c=ü"])
async def test_no_content_type_hurts_the_plugin(house: House, content_type: str) -> None:
    """Whatever the caller calls its body."""
    house.add("reader", tools={"double": double})
    await ready(house, "reader")
    headers = {"content-type": content_type.encode()}
    answer = await house.client.post("/v1/plugins/reader/tools/double/run", content=b"x", headers=headers)  # type: ignore[arg-type]
    assert 400 <= answer.status_code < 500
    assert (await house.run("reader", "double", number=1)).status_code == 200


async def test_the_tools_of_a_plugin_are_listed_with_their_schemas(house: House) -> None:
    """As the plugin told them; 404 for no plugin."""
    house.add("reader", tools={"double": double})
    await ready(house, "reader")
    (tool,) = (await house.client.get("/v1/plugins/reader/tools")).json()
    assert tool["name"] == "double"
    assert tool["input_schema"]["properties"] == {"number": {"type": "integer"}}
    assert (await house.client.get("/v1/plugins/nobody/tools")).status_code == 404


async def test_a_stopping_orchestrator_lets_runs_end(house: House) -> None:
    """Who is in has its answer; the plugin is not disturbed before."""
    go_on = asyncio.Event()
    house.add("reader", tools={"read": go_on.wait})
    await ready(house, "reader")
    run = asyncio.create_task(house.run("reader", "read"))
    await house.until("reader", lambda health: health["in_flight"] == 1)
    context = house.app.state.context  # type: ignore[union-attr]
    drained = asyncio.create_task(context.tool_runner.drain())
    await asyncio.sleep(0.05)
    late = await house.run("reader", "read")
    assert not drained.done()
    go_on.set()
    assert (await run).status_code == 200
    await drained
    assert (late.status_code, "Retry-After" in late.headers) == (503, True)
    await eventually(drained.done, "nothing is in flight")
