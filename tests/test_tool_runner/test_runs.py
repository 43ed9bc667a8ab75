"""A run from request to envelope."""

import asyncio
from typing import Any

import pytest
from support.harness import TIMEOUT, Harness, eventually
from support.scripted_tools import InvalidInput
from test_tool_runner.ready_plugins import double, ready

ENVELOPE = {
    "ok", "result", "error", "error_type", "reason_code", "source", "plugin", "tool", "run_id", "execution_time_ms",
    "files",
}  # fmt: skip


def refuse(text: str) -> str:
    raise InvalidInput(f"{text!r} is no number")


def fail() -> None:
    raise ZeroDivisionError("division by zero")


async def test_a_run_answers_with_its_result(harness: Harness) -> None:
    """200, the whole envelope, and the run's id also in a header."""
    harness.add("reader", tools={"double": double})
    await ready(harness, "reader")
    answer = await harness.run("reader", "double", number=21)
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == ENVELOPE
    assert (body["ok"], body["result"], body["error"], body["source"]) == (True, 42, None, "plugin")
    assert (body["plugin"], body["tool"]) == ("reader", "double")
    assert body["execution_time_ms"] >= 0
    assert body["run_id"] == answer.headers["X-Run-Id"] == harness.instance("reader").run_ids[0]


async def test_a_run_waits_for_a_plugin_on_its_way_up(harness: Harness) -> None:
    """The caller need not look at the state first."""
    harness.add("reader", tools={"double": double}, start=[(0.2, {"phase": "ready"})])
    await harness.open()
    assert (await harness.run("reader", "double", number=1)).json()["result"] == 2


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
    harness: Harness, tool: str, request_: dict[str, Any], status: int, phrase: str
) -> None:
    """The answer says so; the plugin goes on and counts neither success nor error."""
    harness.add("reader", tools={"double": double, "refuse": refuse, "fail": fail})
    await ready(harness, "reader")
    answer = await harness.client.post(f"/v1/plugins/reader/tools/{tool}/run", **request_)
    health = await harness.health("reader")
    assert answer.status_code == status
    assert answer.json()["ok"] is False
    assert phrase in answer.json()["error"]
    assert health["state"] in {"INITIALIZED", "RUNNING"}
    assert (health["success_count"], health["error_count"], health["in_flight"]) == (0, 0, 0)
    assert (await harness.run("reader", "double", number=2)).json()["result"] == 4


async def test_a_plugin_that_there_is_not_is_404(harness: Harness) -> None:
    """In the same envelope as everything."""
    await harness.open()
    answer = await harness.run("nobody", "read")
    assert answer.status_code == 404
    assert set(answer.json()) == ENVELOPE
    assert "nobody" in answer.json()["error"]


async def test_an_unknown_tool_is_named_in_short(harness: Harness) -> None:
    """Its type says what is wrong; a name without end does not come back whole."""
    harness.add("reader", tools={"double": double})
    await ready(harness, "reader")
    body = (await harness.run("reader", "x" * 5000)).json()
    assert body["error_type"] == "UnknownTool"
    assert "'" + "x" * 80 + "'" in body["error"]
    assert len(body["error"]) < 200


async def test_a_plugin_without_limits_is_unavailable(harness: Harness) -> None:
    """Whose manifest is not valid has none; a run at any moment is an answer, no defect."""
    harness.write_raw("reader", "version: [")
    await harness.open()
    registry = harness.registry
    registry.renew("reader", limits=None)
    answer = await harness.run("reader", "double", number=1)
    assert (answer.status_code, answer.json()["error_type"]) == (503, "PluginUnavailable")


async def test_a_tool_that_raises_fails_its_plugin(harness: Harness) -> None:
    """502 with the tool's own error; then FAILED, removed, and 503 with the reason."""
    harness.add("reader", tools={"fail": fail})
    await ready(harness, "reader")
    answer = await harness.run("reader", "fail")
    health = await harness.until_removed("reader")
    after = await harness.run("reader", "fail")
    assert answer.status_code == 502
    assert (answer.json()["error_type"], answer.json()["reason_code"]) == ("ZeroDivisionError", "TOOL_ERROR")
    assert answer.json()["source"] == "plugin"
    assert "Traceback" not in answer.text
    assert (health["state"], health["reason_code"]) == ("FAILED", "TOOL_ERROR")
    assert "division by zero" in health["reason"]
    assert "ZeroDivisionError" in health["post_mortem"]["traceback"]
    assert (after.status_code, after.json()["error"]) == (503, health["reason"])
    assert after.json()["error_type"] == "PluginUnavailable"
    assert await harness.containers("reader") == []


async def test_a_tolerant_plugin_outlives_its_tools_errors(harness: Harness) -> None:
    """They are counted and reported all the same."""
    harness.add("reader", tools={"fail": fail, "double": double}, failure_policy="tolerant")
    await ready(harness, "reader")
    answers = [await harness.run("reader", "fail") for _ in range(3)]
    health = await harness.health("reader")
    assert [(a.status_code, a.json()["reason_code"]) for a in answers] == [(502, "TOOL_ERROR")] * 3
    assert (health["state"], health["error_count"], health["reason"]) == ("RUNNING", 3, None)
    assert (await harness.run("reader", "double", number=1)).status_code == 200


@pytest.mark.parametrize("policy", ["strict", "tolerant"])
async def test_a_crash_is_final_under_either_policy(harness: Harness, policy: str) -> None:
    """The answer to the run in flight says why, and so do those after."""
    harness.add("reader", tools={"hang": asyncio.Event().wait}, failure_policy=policy)
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "hang"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    await harness.instance("reader").worker_exits(signal=11)
    answer = await run
    health = await harness.until_removed("reader")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "CRASHED")
    assert (health["state"], health["reason_code"]) == ("FAILED", "CRASHED")
    assert health["post_mortem"]["signal"] == "SIGSEGV"


async def test_the_tools_of_a_plugin_are_listed_with_their_schemas(harness: Harness) -> None:
    """As the plugin reported them; 404 for no plugin."""
    harness.add("reader", tools={"double": double})
    await ready(harness, "reader")
    (tool,) = (await harness.client.get("/v1/plugins/reader/tools")).json()
    assert tool["name"] == "double"
    assert tool["input_schema"]["properties"] == {"number": {"type": "integer"}}
    assert (await harness.client.get("/v1/plugins/nobody/tools")).status_code == 404


async def test_a_stopping_orchestrator_lets_runs_end(harness: Harness) -> None:
    """Who is in has its answer; the plugin is not disturbed before."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait})
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    context = harness.app.state.context  # type: ignore[union-attr]
    drained = asyncio.create_task(context.tool_runner.drain(TIMEOUT, asyncio.Event(), containers_stay=True))
    await asyncio.sleep(0.05)
    late = await harness.run("reader", "read")
    assert not drained.done()
    go_on.set()
    assert (await run).status_code == 200
    await drained
    assert (late.status_code, "Retry-After" in late.headers) == (503, True)
    await eventually(drained.done, "nothing is in flight")
