"""Waiting behind a proxy: no request waits for long, and a proxy's own error is not the run's."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import httpx
import pytest
from support.scripted_transport import ScriptedTransport, envelope

from orchestrator.client import (
    AsyncRunHandle,
    Begun,
    End,
    Item,
    PluginTimeout,
    RestartRefused,
    RunHandle,
    RunNotFinished,
    UnexpectedAnswer,
    Unreachable,
    operations,
)

PROXY_TIMEOUT = 60.0
UNFINISHED = httpx.Response(
    409, json={"ok": False, "error": "the run has not finished", "error_type": "RunNotFinished"}
)
RUN = {"run_id": "7f", "state": "finished", "outcome": "ok"}


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch):
    monkeypatch.setattr(operations, "_POLL_INTERVAL", 0.0)


def gateway(status: int) -> httpx.Response:
    return httpx.Response(status, html="<html><h1>Gateway Time-out</h1></html>")


def plugin(state: str, reason_code: str | None = None) -> httpx.Response:
    return httpx.Response(200, json={"name": "echo", "state": state, "reason_code": reason_code})


def waits(transport: ScriptedTransport) -> list[float]:
    return [float(request.url.params.get("wait", 0)) for request in transport.requests]


async def handle(make, *answers: Any) -> tuple[Any, ScriptedTransport]:
    transport = ScriptedTransport(*answers)
    call = make("http://orchestrator", transport=transport)
    made = call.client.handle("7f")
    assert isinstance(made, RunHandle | AsyncRunHandle)

    async def of(method: str, *arguments: Any) -> Any:
        return await call.of(made, method, *arguments)

    return of, transport


@pytest.mark.parametrize("timeout", [None, 3600])
async def test_a_result_is_awaited_in_requests_that_no_proxy_cuts(make, timeout):
    of, transport = await handle(make, UNFINISHED, UNFINISHED, envelope(result=5))
    assert await of("result", timeout) == 5
    assert len(transport.requests) == 3
    assert 0 < max(waits(transport)) < PROXY_TIMEOUT - 5


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("timeout", [None, 3600])
async def test_the_error_of_a_proxy_is_not_that_of_the_run(make, status, timeout):
    of, transport = await handle(make, gateway(status), gateway(status), UNFINISHED, envelope(result=5))
    assert await of("result", timeout) == 5
    assert len(transport.requests) == 4


async def test_after_the_error_of_a_proxy_the_next_request_waits_for_less(make):
    of, transport = await handle(make, *[gateway(504)] * 5, envelope(result=5))
    await of("result", 3600)
    assert waits(transport) == sorted(waits(transport), reverse=True)
    assert waits(transport)[-1] < 5


@pytest.mark.parametrize("method", ["result", "wait"])
async def test_the_error_of_a_proxy_is_raised_when_the_caller_waits_no_longer(make, method):
    of, _ = await handle(make, gateway(504))
    with pytest.raises(UnexpectedAnswer, match=r"504.*A proxy may have answered in its stead"):
        await of(method, 0)


async def test_a_proxy_that_never_reaches_an_orchestrator_ends_the_wait(make, monkeypatch):
    monkeypatch.setattr(operations, "MAX_RETRYING", 0.05)
    of, _ = await handle(make, gateway(502))
    with pytest.raises(UnexpectedAnswer):
        await of("result")


async def test_a_result_that_does_not_come_is_not_finished(make):
    of, _ = await handle(make, UNFINISHED)
    with pytest.raises(RunNotFinished):
        await of("result", 0.01)


async def test_the_end_of_a_run_is_awaited_likewise(make):
    of, transport = await handle(make, gateway(504), UNFINISHED, envelope(result=5), httpx.Response(200, json=RUN))
    assert await of("wait", 3600) == RUN
    assert max(waits(transport)) < PROXY_TIMEOUT - 5


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_read_is_sent_again_after_the_error_of_a_proxy(make, status):
    transport = ScriptedTransport(gateway(status), httpx.Response(200, json=[]))
    assert await make("http://orchestrator", transport=transport)("plugins") == []


@pytest.mark.parametrize("method", ["run", "run_async", "stream", "restart"])
async def test_what_may_have_happened_is_not_sent_again_after_the_error_of_a_proxy(make, method):
    transport = ScriptedTransport(gateway(504))
    with pytest.raises(UnexpectedAnswer):
        await make("http://orchestrator", transport=transport)(method, *(["echo"] if method == "restart" else "ab"))
    assert len(transport.requests) == 1


@pytest.mark.parametrize("method", ["restart", "start"])
@pytest.mark.parametrize(("state", "code"), [("INITIALIZED", None), ("FAILED", "INIT_ERROR")])
@pytest.mark.parametrize("retries", [0, 3])
async def test_an_instance_is_awaited_in_requests_that_no_proxy_cuts(make, method, state, code, retries):
    transport = ScriptedTransport(plugin("LOADED"), gateway(502), plugin("LOADED"), plugin(state, code))
    found = await make("http://orchestrator", transport=transport, retries=retries)(method, "echo", wait=3600)
    assert (found["state"], found["reason_code"]) == (state, code)
    assert [request.method for request in transport.requests] == ["POST", "GET", "GET", "GET"]
    assert max(waits(transport)) < PROXY_TIMEOUT - 20


async def test_a_proxy_that_never_reaches_an_orchestrator_ends_the_wait_for_an_instance(make):
    transport = ScriptedTransport(plugin("LOADED"), gateway(502))
    with pytest.raises(UnexpectedAnswer, match="502"):
        await make("http://orchestrator", transport=transport)("restart", "echo", wait=0.5)
    assert [request.method for request in transport.requests][:2] == ["POST", "GET"]


@pytest.mark.parametrize("answer", [{"message": "upstream timed out"}, {"status": 504, "error": "Gateway Time-out"}])
async def test_a_proxy_that_answers_in_json_is_no_orchestrator_either(make, answer):
    transport = ScriptedTransport(httpx.Response(504, json=answer), httpx.Response(200, json=[]))
    assert await make("http://orchestrator", transport=transport)("plugins") == []


def stream(*events: Any) -> httpx.Response:
    lines = "".join(f"{json.dumps(event)}\n" if event else "\n" for event in events)
    return httpx.Response(200, content=lines, headers={"Content-Type": "application/x-ndjson", "X-Run-Id": "7f"})


END = {"event": "end", "status": 200, "ok": True, "result": None, "run_id": "7f"}
HEARTBEAT = {"event": "heartbeat"}


@pytest.mark.parametrize("silence", [HEARTBEAT, None])
async def test_a_run_that_took_long_has_come_as_a_stream_and_is_its_result_all_the_same(make, silence):
    for events, expected in (
        ([silence, {**END, "result": 5}], 5),
        ([silence, {"event": "item", "data": 1}, silence, {"event": "item", "data": 2}, END], [1, 2]),
        ([silence, END], None),
    ):
        call = make("http://orchestrator", transport=ScriptedTransport(stream(*events)))
        assert await call("run", "echo", "say") == expected
        assert (await call("call", "echo", "say"))["run_id"] == "7f"


@pytest.mark.parametrize("silence", [HEARTBEAT, None])
async def test_heartbeats_are_no_events_of_a_stream(make, silence):
    transport = ScriptedTransport(stream(silence, {"event": "item", "data": 1}, silence, END))
    begun, item, end = await make("http://orchestrator", transport=transport)("stream", "echo", "say")
    assert (begun, item) == (Begun("7f"), Item(1)) and isinstance(end, End)


@pytest.mark.parametrize("method", ["run", "stream"])
async def test_a_run_that_fails_after_a_heartbeat_raises_as_always(make, method):
    end = {**END, "status": 504, "ok": False, "error": "too long", "reason_code": "TIMEOUT"}
    transport = ScriptedTransport(stream(HEARTBEAT, end))
    with pytest.raises(PluginTimeout, match="too long") as caught:
        await make("http://orchestrator", transport=transport)(method, "echo", "say")
    assert (caught.value.status, caught.value.run_id) == (504, "7f")
    assert len(transport.requests) == 1


@pytest.mark.parametrize("method", ["run", "stream"])
async def test_a_stream_that_breaks_off_is_no_result(make, method):
    transport = ScriptedTransport(stream(HEARTBEAT, {"event": "item", "data": 1}))
    with pytest.raises(Unreachable, match="broke off") as caught:
        await make("http://orchestrator", transport=transport)(method, "echo", "say")
    assert caught.value.run_id == "7f"
    assert len(transport.requests) == 1


async def test_heartbeats_are_no_lines_of_a_log(make):
    answer = httpx.Response(200, text="2026-01-01T00:00:00Z one\n\n\n2026-01-01T00:00:01Z two\n")
    lines = await make("http://orchestrator", transport=ScriptedTransport(answer))("logs", "echo", follow=True)
    assert [line.partition(" ")[2] for line in lines] == ["one", "two"]


async def test_an_instance_that_still_starts_is_returned_as_it_is(make):
    transport = ScriptedTransport(plugin("LOADED"))
    assert (await make("http://orchestrator", transport=transport)("restart", "echo", wait=0))["state"] == "LOADED"
    assert len(transport.requests) == 1


PROGRAM = """
import httpx
from orchestrator.client import Client
answers = iter([httpx.ConnectError("refused"), httpx.Response(200, json=[])])
def answer(request):
    found = next(answers)
    if isinstance(found, Exception):
        raise found
    return found
print(Client("http://x", transport=httpx.MockTransport(answer)).plugins())
"""


def test_a_retry_prints_nothing_in_a_program_without_logging():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_a_program_with_logging_sees_retries(make, caplog):
    transport = ScriptedTransport(httpx.ConnectError("refused"), httpx.Response(200, json=[]))
    with caplog.at_level(logging.WARNING, logger="orchestrator.client"):
        await make("http://orchestrator", transport=transport)("plugins")
    assert [record.name for record in caplog.records] == ["orchestrator.client"]


def restarting(state: str, code: str | None = None) -> httpx.Response:
    restart = {"state": state, "requested_at": "2026-03-01T12:00:00Z", "reason_code": code, "reason": code and "why"}
    return httpx.Response(
        202 if state == "preparing" else 200,
        json={"name": "echo", "state": "RUNNING", "reason_code": None, "restart": restart},
    )


async def test_a_restart_that_is_prepared_is_awaited(make):
    """Though the old instance, which serves, is in its state."""
    transport = ScriptedTransport(restarting("preparing"), restarting("preparing"), plugin("LOADED"), plugin("RUNNING"))
    found = await make("http://orchestrator", transport=transport)("restart", "echo", wait=3600)
    assert found["state"] == "RUNNING" and "restart" not in found
    assert [request.method for request in transport.requests] == ["POST", "GET", "GET", "GET"]


async def test_a_start_waits_for_no_restart(make):
    transport = ScriptedTransport(restarting("preparing"))
    assert (await make("http://orchestrator", transport=transport)("start", "echo"))["state"] == "RUNNING"


@pytest.mark.parametrize("late", [False, True])
async def test_a_refused_restart_is_an_error_with_its_reason(make, late):
    """At once, or after a build."""
    envelope_ = {"ok": False, "error": "why", "error_type": "RestartRefused", "reason_code": "BUILD_FAILED"}
    answers = (
        [restarting("preparing"), restarting("refused", "BUILD_FAILED")]
        if late
        else [httpx.Response(409, json=envelope_)]
    )
    with pytest.raises(RestartRefused, match="why") as error:
        await make("http://orchestrator", transport=ScriptedTransport(*answers))("restart", "echo")
    assert (error.value.status, error.value.reason_code) == (409, "BUILD_FAILED")


async def test_who_waits_is_shown_what_goes_on(make):
    seen: list[str] = []
    transport = ScriptedTransport(plugin("LOADED"), plugin("LOADED"), plugin("INITIALIZED"))
    call = make("http://orchestrator", transport=transport)
    await call("start", "echo", wait=3600, on_wait=lambda found: seen.append(found["state"]))
    assert seen == ["LOADED", "LOADED"]
    assert waits(transport)[0] <= 2
