"""PluginSandboxRunner: one call on one instance, which never raises. Whatever happens comes back as one value."""

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import msgspec

from orchestrator.errors import ChannelError, OrchestratorError
from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import BodyError, Outcome, RunResult, ToolCall
from orchestrator.sandbox.channel import RuntimeChannel, ToolResponse
from orchestrator.sandbox.deadline import CallerGoneError, Deadline, UploadPace, while_wanted
from orchestrator.sandbox.verdict import Verdict, format_size, out_of_memory

Emit = Callable[[bytes], Awaitable[None]]
"""Takes one line of a streaming tool, JSON without its line end."""

_KINDS: Final[Mapping[str, Outcome]] = {
    "bad_request": Outcome.BAD_REQUEST,
    "unknown_tool": Outcome.UNKNOWN_TOOL,
    "too_large": Outcome.TOO_LARGE,
    "unsupported_media_type": Outcome.UNSUPPORTED_MEDIA_TYPE,
    "invalid_arguments": Outcome.INVALID_ARGUMENTS,
    "invalid_input": Outcome.INVALID_INPUT,
    "exception": Outcome.PLUGIN_FAILED,
    "invalid_output": Outcome.PLUGIN_FAILED,
}
_PASSED_ON: Final = ("item", "progress")
"""Events of a streaming tool that its reader gets; others are for a newer orchestrator."""
_END_LOOKS: Final = 0.02
"""Seconds between looks whether a tool that was hung up on has ended."""
_LINGER: Final = 2.5
"""Seconds beyond the deadline for a tool that was hung up on: the runtime takes two to close its side."""
_ENVELOPE_ROOM: Final = 64 * 1024
"""Bytes that an answer may have beside its result."""


class _Answer(msgspec.Struct):
    """A worker's answer; the result is checked to be JSON and kept as text."""

    ok: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    kind: str = ""
    error: str = ""
    error_type: str | None = None
    traceback: str = ""
    execution_time_ms: float | None = None
    oom_kills: int = 0


class _Line(_Answer):
    """A line of a streaming tool."""

    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_A = TypeVar("_A", bound=_Answer)
_ANSWER = msgspec.json.Decoder(_Answer)
_LINE = msgspec.json.Decoder(_Line)


def _decoded(decoder: msgspec.json.Decoder[_A], text: bytes) -> _A:
    """Raises `ValueError` for whatever is not the agreed object in UTF-8."""
    if not text.isascii():
        text.decode()  # the decoder leaves the strings of a `Raw` unchecked
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class SandboxedInstance(Protocol):
    """What the runner needs of an instance."""

    @property
    def channel(self) -> RuntimeChannel: ...

    @property
    def oom_kills(self) -> int: ...

    @property
    def memory_limit(self) -> int: ...

    async def verdict(self) -> Verdict:
        """Why the instance ended, once that is known; bounded in time."""


class PluginSandboxRunner:
    """Makes calls under a deadline. `max_result` is the largest result in bytes, `upload_idle` the seconds a caller
    may pause in its body; `upload_min_rate` bytes a second is what it must send, or be at most `upload_grace` seconds
    behind.
    """

    def __init__(
        self, *, max_result: int, upload_idle: float, upload_min_rate: float = 16 * 1024, upload_grace: float = 30.0
    ) -> None:
        self._max_result = max_result
        self._pace = UploadPace(upload_idle, upload_min_rate, upload_grace)

    async def run(
        self,
        instance: SandboxedInstance,
        call: ToolCall,
        *,
        timeout: float,
        emit: Emit | None = None,
        gone: asyncio.Future[None] | None = None,
    ) -> RunResult:
        """The result of `call`, within `timeout` seconds of execution. At the deadline it returns; to stop the
        container is the owner's part.

        With `emit`, a streaming tool's lines are passed on as they come; without, its items are collected into a list.
        Where their reader is `gone`, or takes none for `upload_idle` seconds, the tool is stopped at its next line, and
        has until the deadline to get there.
        """
        begun = time.perf_counter()
        deadline = Deadline(timeout)
        try:
            async with deadline:
                result = await self._call(instance, call, deadline, emit, gone)
        except TimeoutError:
            result = RunResult(
                Outcome.TIMEOUT,
                error=f"{call.tool} ran longer than {timeout:g} s. The plugin is being stopped; its health shows "
                "where it hung.",
                reason_code=ReasonCode.TIMEOUT,
            )
        except BodyError as error:
            result = RunResult(error.outcome, error=str(error))
        except ChannelError as error:
            result = await self._after_break(instance, error)
        elapsed = (time.perf_counter() - begun) * 1000
        return result if result.execution_time_ms else replace(result, execution_time_ms=elapsed)

    async def _call(
        self,
        instance: SandboxedInstance,
        call: ToolCall,
        deadline: Deadline,
        emit: Emit | None,
        gone: asyncio.Future[None] | None,
    ) -> RunResult:
        broken: list[Exception] = []
        body = (
            call.body if isinstance(call.body, bytes) else _watched(deadline.over_upload(call.body, self._pace), broken)
        )
        killed_before = instance.oom_kills
        try:
            async with instance.channel.call(
                call.tool,
                run_id=call.run_id,
                content_type=call.content_type,
                query=call.query,
                body=body,
                trace=call.trace,
            ) as response:
                if response.content_type == "application/x-ndjson":
                    passed_on = None if emit is None else self._patient(emit, deadline)
                    try:
                        async with while_wanted(gone if emit else None, "the reader left before the stream's end"):
                            result, killed = await self._stream(response, passed_on)
                    except CallerGoneError as left:
                        deadline.extend(_LINGER)
                        await _hang_up(response)
                        result, killed = RunResult(Outcome.CALLER_GONE, error=str(left)), 0
                else:
                    result, killed = await self._single(response), response.oom_kills
        except ChannelError:
            for error in broken:
                raise (
                    error if isinstance(error, BodyError) else BodyError(Outcome.CALLER_GONE, "the caller hung up")
                ) from error
            raise
        return ended_by(out_of_memory(instance.memory_limit)) if killed > killed_before else result

    def _patient(self, emit: Emit, deadline: Deadline) -> Emit:
        """`emit` with the clock stopped, since it is the reader who is waited for, but not for ever."""
        idle = self._pace.idle

        async def passed_on(line: bytes) -> None:
            bound = asyncio.timeout(idle)
            try:
                with deadline.paused():
                    async with bound:
                        await emit(line)
            except TimeoutError:
                if not bound.expired():
                    raise
                raise CallerGoneError(f"the reader took nothing of the stream for {idle:g} s") from None

        return passed_on

    async def _single(self, response: ToolResponse) -> RunResult:
        body = await response.read(self._max_result + _ENVELOPE_ROOM)
        if body is None:
            return _invalid_output(f"the result is over the limit of {format_size(self._max_result)}")
        try:
            return _result(_decoded(_ANSWER, body))
        except ValueError:
            return _invalid_output("the plugin's answer is not what the runtime protocol says")

    async def _stream(self, response: ToolResponse, emit: Emit | None) -> tuple[RunResult, int]:
        items: list[bytes] = []
        size = 0
        async for raw in response.lines():
            try:
                line = _decoded(_LINE, raw)
            except ValueError:
                return _invalid_output("a line of the plugin's stream is not what the runtime protocol says"), 0
            if line.event == "end":
                collected = b"[" + b",".join(items) + b"]" if emit is None else b"null"
                return _result(line, result=collected), line.oom_kills
            if emit is not None and line.event in _PASSED_ON:
                await emit(raw)
            elif emit is None and line.event == "item":
                size += len(line.data) + 1
                if size > self._max_result:
                    return _invalid_output(
                        f"the items together are over the limit of {format_size(self._max_result)}; ask for a stream"
                    ), 0
                items.append(bytes(line.data))
        raise ChannelError("the stream ended without its last line")

    @staticmethod
    async def _after_break(instance: SandboxedInstance, error: ChannelError) -> RunResult:
        try:
            verdict = await instance.verdict()
        except (OrchestratorError, TimeoutError):
            return RunResult(
                Outcome.PLUGIN_FAILED, error=f"The plugin gave no answer: {error}", reason_code=ReasonCode.UNRESPONSIVE
            )
        return ended_by(verdict)


def ended_by(verdict: Verdict) -> RunResult:
    """The result of a run whose instance ended under it."""
    theirs = verdict.code in _ENDED_BY_PLUGIN
    return RunResult(
        Outcome.PLUGIN_FAILED if theirs else Outcome.UNAVAILABLE, error=verdict.reason, reason_code=verdict.code
    )


_ENDED_BY_PLUGIN = frozenset(
    {ReasonCode.CRASHED, ReasonCode.EXITED, ReasonCode.KILLED, ReasonCode.OUT_OF_MEMORY, ReasonCode.UNRESPONSIVE}
)


def _result(answer: _Answer, result: bytes | None = None) -> RunResult:
    elapsed = answer.execution_time_ms or 0.0
    if answer.ok:
        return RunResult(
            Outcome.OK, elapsed, result=bytes(answer.result) if result is None else result, from_plugin=True
        )
    outcome = _KINDS.get(answer.kind)
    if outcome is None:
        return _invalid_output("the plugin's answer is not what the runtime protocol says")
    codes = {"exception": ReasonCode.TOOL_ERROR, "invalid_output": ReasonCode.INVALID_OUTPUT}
    return RunResult(
        outcome,
        elapsed,
        error=answer.error,
        error_type=answer.error_type,
        reason_code=codes.get(answer.kind),
        traceback=answer.traceback,
        from_plugin=True,
    )


def _invalid_output(sentence: str) -> RunResult:
    return RunResult(
        Outcome.PLUGIN_FAILED, error=sentence, error_type="InvalidOutput", reason_code=ReasonCode.INVALID_OUTPUT
    )


async def _hang_up(response: ToolResponse) -> None:
    """Take no more of a stream, and return when the tool has ended, which is when its side is closed too.

    The connection is half closed: the tool is stopped at its next line, since that cannot be sent, and its end still
    shows.
    """
    connection = response._response.connection  # noqa: SLF001
    sock = connection.transport.get_extra_info("socket") if connection and connection.transport else None
    if sock is None or sock.fileno() < 0:
        return
    with socket.socket(fileno=os.dup(sock.fileno())) as kept:
        with suppress(OSError):  # not connected: it has ended
            kept.shutdown(socket.SHUT_RD)
        ends = select.poll()
        ends.register(kept, 0)  # says nothing but that the other side is closed
        while not ends.poll(0):  # noqa: ASYNC110 - the loop cannot watch for this alone
            await asyncio.sleep(_END_LOOKS)


async def _watched(body: AsyncIterator[bytes], broken: list[Exception]) -> AsyncIterator[bytes]:
    """`body`; remembers what broke it off, since the HTTP client hides that."""
    try:
        async for chunk in body:
            yield chunk
    except Exception as error:
        broken.append(error)
        raise
