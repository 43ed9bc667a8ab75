"""PluginSandboxRunner: whatever a runtime answers comes back as one result, in time; nothing is ever raised."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.raw_runtime import RawInstance, http, http_stream, raw_instance
from test_plugin_sandbox.sandbox_calls import CALL, MAX_RESULT, run, sandbox

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.lifecycle import ReasonCode
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.sandbox.call import Outcome, RunResult
from orchestrator.sandbox.sandbox_runner import ResultSink
from orchestrator.sandbox.verdict import Verdict

CRASHED = Verdict(ReasonCode.CRASHED, "The worker died by SIGSEGV.", signal="SIGSEGV")


# What the protocol says


async def test_a_result_comes_back_as_the_text_that_it_was() -> None:
    """The tool's own JSON is passed on as it is, with the time that the plugin measured."""
    result = await run(http(b'{"ok": true, "result": {"a": [1, 2.50]}, "execution_time_ms": 1.8}'))
    assert result.outcome is Outcome.OK
    assert result.result == b'{"a": [1, 2.50]}'
    assert result.execution_time_ms == 1.8
    assert result.from_plugin


KINDS = [
    ("bad_request", 400, Outcome.BAD_REQUEST, None),
    ("unknown_tool", 404, Outcome.UNKNOWN_TOOL, None),
    ("too_large", 413, Outcome.TOO_LARGE, None),
    ("unsupported_media_type", 415, Outcome.UNSUPPORTED_MEDIA_TYPE, None),
    ("invalid_arguments", 422, Outcome.INVALID_ARGUMENTS, None),
    ("invalid_input", 422, Outcome.INVALID_INPUT, None),
    ("exception", 500, Outcome.PLUGIN_FAILED, ReasonCode.TOOL_ERROR),
    ("invalid_output", 500, Outcome.PLUGIN_FAILED, ReasonCode.INVALID_OUTPUT),
    ("defect", 500, Outcome.PLUGIN_FAILED, None),
    ("cancelled", 409, Outcome.CANCELLED, None),
    ("too_busy", 503, Outcome.QUEUE_FULL, None),
]


@pytest.mark.parametrize(("kind", "status", "outcome", "code"), KINDS, ids=[row[0] for row in KINDS])
async def test_every_kind_of_refusal_has_its_outcome(
    kind: str, status: int, outcome: Outcome, code: ReasonCode | None
) -> None:
    """Only what is the plugin's own fault has a reason code; the traceback is separate from the sentence."""
    body = {"ok": False, "kind": kind, "error": "no", "error_type": "E", "traceback": "File x"}
    result = await run(http(json.dumps(body).encode(), status=f"{status} X"))
    assert (result.outcome, result.reason_code) == (outcome, code)
    assert (result.error, result.error_type, result.traceback, result.from_plugin) == ("no", "E", "File x", True)


async def test_a_run_that_its_batch_had_no_time_for_may_be_tried_again() -> None:
    """Nothing of it was executed: as for a full queue."""
    body = b'{"ok": false, "kind": "too_busy", "error": "no", "error_type": "TooBusy"}'
    assert (await run(http(body, status="503 X"))).retry_after == 1.0
    assert (await run(http(b'{"ok": false, "kind": "invalid_input", "error": "no"}'))).retry_after is None


async def test_a_runtime_hears_of_the_time_limit() -> None:
    """In seconds; it may start no batch that would end too late."""
    heads: list[bytes] = []
    async with raw_instance(http(b'{"ok": true, "result": 1}'), heads=heads.append) as instance:
        assert (await sandbox().run(instance, CALL, timeout=2.5)).ok
    assert b"x-time-limit: 2.5\r\n" in heads[0].lower()


async def test_a_stream_without_a_reader_is_collected() -> None:
    """The items become a list; progress is left out."""
    result = await run(
        http_stream(
            b'{"event": "item", "data": {"n": 1}}',
            b'{"event": "progress", "fraction": 0.5}',
            b'{"event": "item", "data": 2}',
            b'{"event": "end", "ok": true, "items": 2, "execution_time_ms": 3.5}',
        )
    )
    assert result.ok
    assert json.loads(result.result or b"") == [{"n": 1}, 2]
    assert result.execution_time_ms == 3.5


async def test_a_stream_that_ends_badly_is_an_error() -> None:
    """What the last line says counts, whatever was yielded before it."""
    result = await run(
        http_stream(
            b'{"event":"item","data":1}', b'{"event":"end","ok":false,"kind":"exception","error":"no","error_type":"E"}'
        )
    )
    assert (result.outcome, result.reason_code, result.error) == (
        Outcome.PLUGIN_FAILED,
        ReasonCode.TOOL_ERROR,
        "no",
    )


async def test_a_streams_lines_are_passed_on_as_they_come() -> None:
    """Each before the next is there; the last line is the result, not a line."""
    go_on = asyncio.Event()
    seen: list[bytes] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http_stream(b'{"event":"item","data":1}', end=False))
        await go_on.wait()
        line = b'{"event":"end","ok":true}\n'
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))

    async def emit(lines: Sequence[bytes]) -> None:
        seen.extend(lines)
        go_on.set()

    async with raw_instance(answer) as instance:
        result = await sandbox().run(instance, CALL, timeout=2, sink=ResultSink(emit))
    assert result.ok
    assert seen == [b'{"event":"item","data":1}']


async def test_events_that_the_protocol_does_not_know_are_left_out() -> None:
    """A newer runtime may have more to say than this orchestrator can pass on."""
    seen: list[bytes] = []

    async def emit(lines: Sequence[bytes]) -> None:
        seen.extend(lines)

    stream = http_stream(b'{"event":"weather"}', b'{"data":1,"event":"item"}', b'{"event":"end","ok":true}')
    async with raw_instance(stream) as instance:
        assert (await sandbox().run(instance, CALL, timeout=2, sink=ResultSink(emit))).ok
    assert seen == [b'{"data":1,"event":"item"}']


# What the protocol does not say

DEEP = b"[" * 50_000
GARBAGE: list[tuple[str, bytes]] = [
    ("no JSON", http(b"hello")),
    ("nothing", http(b"")),
    ("a list", http(b"[]")),
    ("half an object", http(b'{"ok": true, "result": [1, 2')),
    ("two objects", http(b'{"ok": true} {"ok": true}')),
    ("no UTF-8 in the result", http(b'{"ok": true, "result": "\xff\xfe"}')),
    ("no UTF-8 in the error", http(b'{"ok": false, "kind": "exception", "error": "\xff"}')),
    ("no UTF-8 in an unknown field", http(b'{"ok": true, "more": "\xff"}')),
    ("half a surrogate pair", http(b'{"ok": false, "kind": "exception", "error": "\\ud800"}')),
    ("NaN", http(b'{"ok": true, "result": NaN}')),
    ("a time beyond numbers", http(b'{"ok": true, "execution_time_ms": 1e999}')),
    ("brackets without end", http(b'{"ok": true, "result": ' + DEEP)),
    ("brackets far down", http(b'{"ok": true, "result": ' + DEEP + b"]" * len(DEEP) + b"}")),
    ("text for ok", http(b'{"ok": "true"}')),
    ("an object for the error", http(b'{"ok": false, "kind": "exception", "error": {}}')),
    ("no kind", http(b'{"ok": false, "error": "no"}', status="500 X")),
    ("an unknown kind", http(b'{"ok": false, "kind": "mood", "error": "no"}', status="500 X")),
    ("a web page", http(b"<html></html>", content_type="text/html")),
    ("a web page with a status", http(b"<h1>502 Bad Gateway</h1>", status="502 Bad Gateway", content_type="text/html")),
    ("an unknown encoding", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"),
    ("nobody's content", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("a way elsewhere", b"HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 0\r\n\r\n"),
    ("too much, announced", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{"),
    ("too much", http(b'{"ok": true, "result": "%s"}' % (b"x" * (MAX_RESULT + 100_000)))),
    ("a line that is no JSON", http_stream(b"hello", b'{"event":"end","ok":true}')),
    ("a line that is no object", http_stream(b"7", b'{"event":"end","ok":true}')),
    ("a line that is no UTF-8", http_stream(b'{"event":"item","data":"\xff"}', b'{"event":"end","ok":true}')),
    ("a line of brackets", http_stream(b'{"event":"item","data":' + DEEP, b'{"event":"end","ok":true}')),
    ("an end of an unknown kind", http_stream(b'{"event":"end","ok":false,"kind":"mood"}')),
    (
        "items that are too much together",
        http_stream(*[b'{"event":"item","data":"%s"}' % (b"x" * 40_000)] * 3, b'{"event":"end","ok":true}'),
    ),
]  # fmt: skip


@pytest.mark.parametrize("answer", [row[1] for row in GARBAGE], ids=[row[0] for row in GARBAGE])
async def test_an_answer_that_cannot_be_used_is_invalid_output(answer: bytes) -> None:
    """The plugin's fault, said by the orchestrator in a sentence of its own."""
    result = await run(answer)
    assert (result.outcome, result.reason_code) == (Outcome.PLUGIN_FAILED, ReasonCode.INVALID_OUTPUT)
    assert not result.from_plugin
    assert result.error
    assert result.execution_time_ms > 0


BROKEN_OFF: list[tuple[str, bytes]] = [
    ("it hangs up at once", b""),
    ("it hangs up in the head", b"HTTP/1.1 200 OK\r\nContent-"),
    ("no HTTP", b"hello, who is there?\r\n\r\n"),
    ("an impossible status", b"HTTP/1.1 abc OK\r\n\r\n"),
    ("an impossible length", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    ("a head without end", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
    ("it hangs up in the body", b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"ok": true'),
    ("it hangs up between chunks", http_stream(b'{"event":"item","data":1}', end=False)),
    ("chunks of an impossible length", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    ("a stream without its end", http_stream(b'{"event":"item","data":1}')),
    ("a stream of nothing", http_stream()),
]  # fmt: skip


@pytest.mark.parametrize("answer", [row[1] for row in BROKEN_OFF], ids=[row[0] for row in BROKEN_OFF])
async def test_a_connection_that_breaks_is_what_its_instance_ended_of(answer: bytes) -> None:
    """Its instance says why it ended; where it does not, the plugin is unresponsive."""
    known = await run(answer, ended=CRASHED)
    unknown = await run(answer)
    assert (known.outcome, known.reason_code) == (Outcome.PLUGIN_FAILED, ReasonCode.CRASHED)
    assert known.error == CRASHED.reason
    assert (unknown.outcome, unknown.reason_code) == (Outcome.PLUGIN_FAILED, ReasonCode.UNRESPONSIVE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    body=st.binary(max_size=200) | st.text(max_size=50).map(lambda text: json.dumps(text).encode()),
    content_type=st.sampled_from(["application/json", "application/x-ndjson", "text/plain", ""]),
    cut=st.integers(min_value=0, max_value=60),
)
def test_no_bytes_make_it_raise(body: bytes, content_type: str, cut: int) -> None:
    """Any answer, whole or cut off, with any of its types: one result."""
    whole = http(body, content_type=content_type)
    result = asyncio.run(run(whole[: len(whole) - cut] if cut else whole))
    assert isinstance(result, RunResult)
    assert result.ok or result.error


async def test_a_call_of_an_ended_instance_has_the_verdict_on_it() -> None:
    """Its socket accepts no connection any more."""
    channel = RuntimeChannel(UnixEndpoint(Path("/nowhere")))
    try:
        result = await sandbox().run(RawInstance(channel, CRASHED), CALL, timeout=2)
    finally:
        await channel.close()
    assert result.reason_code is ReasonCode.CRASHED


async def test_a_run_whose_instance_an_operator_stopped_is_unavailable() -> None:
    """No fault of the plugin's: 503, not 502."""
    result = await run(b"", ended=Verdict(ReasonCode.STOPPED, "An operator stopped it."))
    assert (result.outcome, result.reason_code) == (Outcome.UNAVAILABLE, ReasonCode.STOPPED)
