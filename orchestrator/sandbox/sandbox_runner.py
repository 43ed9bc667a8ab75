"""PluginSandboxRunner: one call on one instance, which never raises. Whatever happens comes back as one value."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from orchestrator.errors import ChannelError, OrchestratorError
from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode
from orchestrator.runtime_client.client import RuntimeChannel, ToolResponse
from orchestrator.sandbox.answers import ANSWER, LINE, decoded, invalid_output, progress_of, result_of
from orchestrator.sandbox.call import BodyError, Outcome, Progress, RunResult, ToolCall
from orchestrator.sandbox.cancel_when import CallerGoneError, cancel_when
from orchestrator.sandbox.deadline import Deadline
from orchestrator.sandbox.upload_pace import UploadPace
from orchestrator.sandbox.verdict import Verdict, out_of_memory

Emit = Callable[[bytes], Awaitable[None]]
"""Takes one line of a streaming tool, JSON without its line end."""

_PASSED_ON: Final = ("item", "progress")
"""Events of a streaming tool that its reader gets; others are for a newer orchestrator."""
_LINGER: Final = 2.5
"""Seconds beyond the deadline for a tool that was hung up on: the runtime takes two to close its side."""
_ENVELOPE_ROOM: Final = 64 * 1024
"""Bytes that an answer may have beside its result."""


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


@dataclass(frozen=True, slots=True)
class Reader:
    """Who takes what comes of a call while it goes on."""

    emit: Emit | None = None
    """A streaming tool's lines are passed on as they come; without it its items are collected into a list."""
    gone: asyncio.Future[None] | None = None
    """Done when nobody takes the lines any more."""
    progress: Callable[[Progress], None] = lambda _: None


class PluginSandboxRunner:
    """Makes calls under a deadline. `max_result` is the largest result in bytes, `upload_idle` the seconds a caller
    may pause in its body; `upload_min_rate` bytes a second is what it must send, or be at most `upload_grace` seconds
    behind.
    """

    def __init__(
        self, *, max_result: int, upload_idle: float, upload_min_rate: float = 16 * 1024, upload_grace: float = 30.0
    ) -> None:
        self._max_result = max_result
        self.pace = UploadPace(upload_idle, upload_min_rate, upload_grace)

    async def run(
        self,
        instance: SandboxedInstance,
        call: ToolCall,
        *,
        timeout: float,
        reader: Reader = Reader(),
    ) -> RunResult:
        """The result of `call`, within `timeout` seconds of execution. At the deadline it returns; to stop the
        container is the owner's part.

        Where the reader of a stream is gone, or takes nothing for `upload_idle` seconds, the tool is stopped at its
        next line, and has until the deadline to get there.
        """
        begun = time.perf_counter()
        deadline = Deadline(timeout)
        try:
            async with deadline:
                result = await self._call(instance, call, deadline, reader)
        except TimeoutError:
            result = _over_time(call.tool, timeout)
        except BodyError as error:
            result = RunResult(error.outcome, error=str(error))
        except ChannelError as error:
            result = await self._after_break(instance, error)
        return _timed(result, time.perf_counter() - begun)

    async def resume(
        self, instance: SandboxedInstance, run_id: str, tool: str, *, timeout: float, elapsed: float
    ) -> RunResult | None:
        """The result of a run that executes for `elapsed` seconds already, or has ended and was kept; None where the
        container has none. Everything else as `run`.
        """
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, timeout - elapsed)):
                async with instance.channel.answer_of(run_id) as response:
                    if response.status in (404, 410):
                        return None
                    killed = response.oom_kills > instance.oom_kills
                    result = await self._single(response)
                    if killed:
                        result = ended_by(out_of_memory(instance.memory_limit))
        except TimeoutError:
            result = replace(_over_time(tool, timeout), execution_time_ms=timeout * 1000)
        except ChannelError as error:
            result = await self._after_break(instance, error)
        return _timed(result, elapsed + time.perf_counter() - begun)

    async def _call(self, instance: SandboxedInstance, call: ToolCall, deadline: Deadline, reader: Reader) -> RunResult:
        broken: list[Exception] = []
        body = (
            call.body if isinstance(call.body, bytes) else _watched(deadline.over_upload(call.body, self.pace), broken)
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
                keep=call.keep,
            ) as response:
                if response.content_type == "application/x-ndjson":
                    emit = None if reader.emit is None else self._patient(reader.emit, deadline)
                    gone = reader.gone if emit else None
                    try:
                        with cancel_when(gone, "the reader left before the stream's end"):
                            result, killed = await self._stream(response, replace(reader, emit=emit))
                    except CallerGoneError as left:
                        deadline.extend(_LINGER)
                        await response.hang_up()
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
        idle = self.pace.idle

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
            return invalid_output(f"the result is over the limit of {format_size(self._max_result)}")
        try:
            return result_of(decoded(ANSWER, body))
        except ValueError:
            return invalid_output("the plugin's answer is not what the runtime protocol says")

    async def _stream(self, response: ToolResponse, reader: Reader) -> tuple[RunResult, int]:
        items: list[bytes] = []
        emit = reader.emit
        size = 0
        async for raw in response.lines():
            try:
                line = decoded(LINE, raw)
            except ValueError:
                return invalid_output("a line of the plugin's stream is not what the runtime protocol says"), 0
            if line.event == "end":
                collected = b"[" + b",".join(items) + b"]" if emit is None else b"null"
                return result_of(line, result=collected), line.oom_kills
            if line.event == "progress" and (progress := progress_of(raw)) is not None:
                reader.progress(progress)
            if emit is not None and line.event in _PASSED_ON:
                await emit(raw)
            elif emit is None and line.event == "item":
                size += len(line.data) + 1
                if size > self._max_result:
                    return invalid_output(
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


def _timed(result: RunResult, seconds: float) -> RunResult:
    """`result` with the time that the plugin told, or else with this one."""
    return result if result.execution_time_ms else replace(result, execution_time_ms=seconds * 1000)


def _over_time(tool: str, timeout: float) -> RunResult:
    return RunResult(
        Outcome.TIMEOUT,
        error=f"{tool} ran longer than {timeout:g} s. The plugin is being stopped; its health shows where it hung.",
        reason_code=ReasonCode.TIMEOUT,
    )


def ended_by(verdict: Verdict) -> RunResult:
    """The result of a run whose instance ended under it."""
    theirs = verdict.code in _ENDED_BY_PLUGIN
    return RunResult(
        Outcome.PLUGIN_FAILED if theirs else Outcome.UNAVAILABLE, error=verdict.reason, reason_code=verdict.code
    )


_ENDED_BY_PLUGIN = frozenset(
    {ReasonCode.CRASHED, ReasonCode.EXITED, ReasonCode.KILLED, ReasonCode.OUT_OF_MEMORY, ReasonCode.UNRESPONSIVE}
)


async def _watched(body: AsyncIterator[bytes], broken: list[Exception]) -> AsyncIterator[bytes]:
    """`body`; remembers what broke it off, since it reaches us as a `ChannelError`."""
    try:
        async for chunk in body:
            yield chunk
    except Exception as error:
        broken.append(error)
        raise
