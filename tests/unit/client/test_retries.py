"""Retried is only what cannot execute twice, and not for ever."""

from __future__ import annotations

import os

import httpx
import pytest
from support.scripted_transport import ScriptedTransport, envelope

from orchestrator.client import (
    PluginError,
    PluginUnavailable,
    QueueFull,
    TooManyRequests,
    UnexpectedAnswer,
    Unreachable,
)

REFUSED = httpx.ConnectError("connection refused")
BROKEN = httpx.RemoteProtocolError("peer closed connection")
FULL = envelope(429, error_type="QueueFull", error="full", retry_after=1)
LEAVING = envelope(503, error_type="PluginUnavailable", error="stopping", retry_after=5)


def of(make, *answers, **options):
    transport = ScriptedTransport(*answers)
    return make("http://orchestrator", transport=transport, **options), transport


@pytest.mark.parametrize("trouble", [REFUSED, BROKEN, httpx.ReadTimeout("slow")])
async def test_a_read_is_retried(make, trouble):
    call, transport = of(make, trouble, trouble, httpx.Response(200, json=[]))
    assert await call("plugins") == []
    assert len(transport.requests) == 3


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_read_is_retried_no_more_often_than_configured(make, retries):
    call, transport = of(make, REFUSED, retries=retries)
    with pytest.raises(Unreachable, match="No orchestrator answers at http://orchestrator: connection refused"):
        await call("plugins")
    assert len(transport.requests) == retries + 1


@pytest.mark.parametrize("trouble", [REFUSED, BROKEN])
@pytest.mark.parametrize("method", ["run", "stream", "run_async"])
async def test_a_run_that_may_have_started_is_never_sent_twice(make, method, trouble):
    call, transport = of(make, trouble)
    with pytest.raises(Unreachable):
        await call(method, "echo", "say")
    assert len(transport.requests) == 1


async def test_a_command_is_never_sent_twice(make):
    call, transport = of(make, BROKEN)
    with pytest.raises(Unreachable):
        await call("restart", "echo")
    assert len(transport.requests) == 1


@pytest.mark.parametrize("refusal", [FULL, LEAVING])
@pytest.mark.parametrize("method", ["run", "stream"])
async def test_a_run_that_was_not_started_is_sent_again_with_all_its_files(make, method, refusal, tmp_path):
    (tmp_path / "page.png").write_bytes(b"P" * 100_000)
    call, transport = of(make, refusal, refusal, envelope(result=1))
    with (tmp_path / "page.png").open("rb") as opened:
        await call(method, "ocr", "read", page=tmp_path / "page.png", other=opened, third=b"3", language="eng")
    assert len(transport.bodies) == 3
    for request, body in zip(transport.requests, transport.bodies, strict=True):
        assert int(request.headers["content-length"]) == len(body)
        assert body.count(b"P" * 100_000) == 2


async def test_retries_of_a_run_end_while_the_queue_stays_full(make):
    call, transport = of(make, FULL, retries=4)
    with pytest.raises(QueueFull):
        await call("run", "echo", "say")
    assert len(transport.requests) == 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (envelope(503, reason_code="OUT_OF_MEMORY", error="it ended"), PluginUnavailable),
        (envelope(429, error_type="QueueFull"), QueueFull),
        (envelope(429, error_type="TooManyWrongKeys", retry_after=1), TooManyRequests),
        (envelope(429, error_type="QueueFull", retry_after=3600), QueueFull),
        (envelope(502, reason_code="TOOL_ERROR", retry_after=1), PluginError),
    ],
)
async def test_any_other_error_is_raised_at_once(make, answer, kind):
    call, transport = of(make, answer)
    with pytest.raises(kind):
        await call("run", "echo", "say")
    assert len(transport.requests) == 1


async def test_a_body_that_can_be_read_once_is_sent_once(make):
    out, into = os.pipe()
    os.write(into, b"pipe")
    os.close(into)
    call, transport = of(make, FULL)
    with os.fdopen(out, "rb") as pipe, pytest.raises(QueueFull):
        await call("run", "echo", "say", text=pipe)
    assert len(transport.requests) == 1
    assert b"pipe" in transport.bodies[0]


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), httpx.Response(502, text="<html>"), httpx.Response(200, json=7)]
)
async def test_an_answer_of_another_program_is_unexpected(make, answer):
    call, _ = of(make, answer)
    for method in (("plugins",), ("health", "x"), ("run", "x", "y")):
        with pytest.raises(UnexpectedAnswer, match="Is that the orchestrator"):
            await call(*method)
