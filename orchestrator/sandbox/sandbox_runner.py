"""PluginSandboxRunner: one call on one instance, which never raises. Whatever happens is in its `RunResult`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from orchestrator.errors import CallerDisconnectedError, ChannelError, OrchestratorError
from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode
from orchestrator.runtime_client.client import RuntimeChannel, ToolResponse
from orchestrator.sandbox.answers import ANSWER, LINE, decode, invalid_output, progress_of, result_of
from orchestrator.sandbox.call import BodyError, FileStore, Outcome, Progress, RunResult, StorageError, ToolCall
from orchestrator.sandbox.cancel_when import Signal, cancel_when
from orchestrator.sandbox.deadline import CoarseTimers, Deadline
from orchestrator.sandbox.file_fetcher import MAX_FILES, FileFetcher, OutputRefusedError
from orchestrator.sandbox.verdict import Verdict, out_of_memory

Emit = Callable[[Sequence[bytes]], Awaitable[None] | None]
"""Takes lines of a streaming tool that came together, JSON without their line ends. What it returns is awaited before
it is called again; None where it has room for more.
"""

# Events of a streaming tool that are passed on; others are for a newer orchestrator.
_EMITTED: Final = ("item", "progress")
# Beyond the deadline, for a tool that was hung up on: the runtime may take two to close its side.
_HANG_UP_SECONDS: Final = 2.5
# Bytes that an answer may have beside its result: the announcements of its files, most of all.
_ENVELOPE_ROOM: Final = 64 * 1024 + MAX_FILES * 400
ENDED_BY_PLUGIN: Final = frozenset(
    {ReasonCode.CRASHED, ReasonCode.EXITED, ReasonCode.KILLED, ReasonCode.OUT_OF_MEMORY, ReasonCode.UNRESPONSIVE}
)
"""Verdicts on an instance by which a run in it failed; by all others it had bad luck."""


class SandboxedInstance(Protocol):
    """What the runner needs of an instance."""

    @property
    def channel(self) -> RuntimeChannel: ...

    @property
    def oom_kills(self) -> int: ...

    @property
    def memory_limit(self) -> int | None: ...

    @property
    def output_limit(self) -> int: ...

    async def verdict(self) -> Verdict:
        """Why the instance ended, once that is known; bounded in time."""


class ResultSink(msgspec.Struct):
    """Where items and progress of a call go while it executes."""

    emit: Emit | None = None
    """Receives a streaming tool's lines as they come; without it its items are collected into a list."""
    disconnected: Signal | None = None
    """Done when nobody receives the lines any more."""
    progress: Callable[[Progress], None] = lambda _: None
    files: FileStore | None = None
    """Stores the result's files; without it they are left where they are."""


_NO_SINK: Final = ResultSink()


class PluginSandboxRunner:
    """Makes calls under a deadline. `max_result`: bytes of a result; `reader_idle`: seconds for which the reader of a
    stream may take nothing.
    """

    def __init__(self, *, max_result: int, reader_idle: float) -> None:
        self._max_result = max_result
        self._reader_idle = reader_idle
        self._timers = CoarseTimers()

    async def run(
        self,
        instance: SandboxedInstance,
        call: ToolCall,
        *,
        timeout: float,
        sink: ResultSink = _NO_SINK,
    ) -> RunResult:
        """The result of `call`, at the latest when it has executed for `timeout` seconds: stopping the container is
        left to its owner.

        A stream whose reader disconnects, or takes nothing for `reader_idle` seconds, is hung up on: the tool stops at
        its next line, and has until the deadline to reach it.
        """
        started = time.perf_counter()
        deadline = Deadline(timeout, self._timers)
        fetcher = FileFetcher(instance.channel, call.run_id, sink.files, deadline, limit=instance.output_limit)
        try:
            with deadline:
                result = await self._call(instance, call, deadline, sink, fetcher)
        except TimeoutError:
            result = _over_time(call.tool, timeout)
        except BodyError as error:
            result = RunResult(error.outcome, error=str(error))
        except OutputRefusedError as error:
            result = invalid_output(str(error))
        except StorageError as error:
            result = not_stored(error)
        except ChannelError as error:
            result = await self._after_break(instance, error)
        # The reader of a stream has received references to its files, however it ended.
        if fetcher.files and (result.ok or sink.emit is not None):
            result = replace(result, files=tuple(fetcher.files))
        return _timed(result, time.perf_counter() - started)

    async def resume(
        self,
        instance: SandboxedInstance,
        run_id: str,
        tool: str,
        *,
        timeout: float,
        elapsed: float,
        files: FileStore | None = None,
    ) -> RunResult | None:
        """The result of a run that has been executing for `elapsed` seconds, or has ended with its answer retained;
        None where the container has no such run. Otherwise as `run`.
        """
        started = time.perf_counter()
        deadline = Deadline(max(0.0, timeout - elapsed), self._timers)
        fetcher = FileFetcher(instance.channel, run_id, files, deadline, limit=instance.output_limit)
        try:
            with deadline:
                async with instance.channel.answer_of(run_id) as response:
                    if response.status in (404, 410):
                        return None
                    if response.oom_kills > instance.oom_kills:
                        result = ended_by(out_of_memory(instance.memory_limit))
                    else:
                        result = await self._single(response, fetcher)
        except TimeoutError:
            result = replace(_over_time(tool, timeout), execution_time_ms=timeout * 1000)
        except OutputRefusedError as error:
            result = invalid_output(str(error))
        except StorageError as error:
            result = not_stored(error)
        except ChannelError as error:
            result = await self._after_break(instance, error)
        return _timed(result, elapsed + time.perf_counter() - started)

    async def _call(
        self,
        instance: SandboxedInstance,
        call: ToolCall,
        deadline: Deadline,
        sink: ResultSink,
        fetcher: FileFetcher,
    ) -> RunResult:
        body = call.body
        killed_before = instance.oom_kills
        try:
            async with instance.channel.call(
                call.tool,
                run_id=call.run_id,
                content_type=call.content_type,
                query=call.query,
                body=body if isinstance(body, bytes) else deadline.over_upload(body),
                trace=call.trace,
                body_headers=call.body_headers,
                keep=call.keep,
                time_limit=deadline.seconds,
            ) as response:
                if response.content_type == "application/x-ndjson":
                    result, killed = await self._stream(response, deadline, sink, fetcher)
                elif response.oom_kills > killed_before:
                    return ended_by(out_of_memory(instance.memory_limit))
                else:
                    result, killed = await self._single(response, fetcher), killed_before
                if fetcher.files and not call.keep:
                    await fetcher.release()
        except ChannelError:
            # A body that breaks off breaks the connection with it.
            if not isinstance(body, bytes) and body.failure is not None:
                raise body.failure from None
            raise
        return ended_by(out_of_memory(instance.memory_limit)) if killed > killed_before else result

    async def _single(self, response: ToolResponse, fetcher: FileFetcher) -> RunResult:
        body = await response.read(self._max_result + _ENVELOPE_ROOM)
        try:
            answer = None if body is None else decode(ANSWER, body)
        except ValueError:
            return invalid_output("the plugin's answer is not what the runtime protocol says")
        if answer is None or len(answer.result) > self._max_result:
            return invalid_output(f"the result is over the limit of {format_size(self._max_result)}")
        result = result_of(answer)
        if not result.ok or not answer.files:
            return result
        text = await fetcher.fetch(answer.files, result.result or b"")
        return replace(result, result=text, files=tuple(fetcher.files))

    async def _stream(
        self, response: ToolResponse, deadline: Deadline, sink: ResultSink, fetcher: FileFetcher
    ) -> tuple[RunResult, int]:
        """The result, and how many processes the kernel has killed for memory."""
        try:
            return await self._stream_to(sink, response, deadline, fetcher)
        except StorageError as error:
            deadline.extend(_HANG_UP_SECONDS)
            await response.hang_up()
            return not_stored(error), 0

    async def _stream_to(
        self, sink: ResultSink, response: ToolResponse, deadline: Deadline, fetcher: FileFetcher
    ) -> tuple[RunResult, int]:
        if sink.emit is None:
            return await self._lines(response, None, sink.progress, fetcher)
        emit = self._emit_within(deadline, sink.emit)
        try:
            with cancel_when(sink.disconnected, CallerDisconnectedError, "the reader left before the stream's end"):
                return await self._lines(response, emit, sink.progress, fetcher)
        except CallerDisconnectedError as error:
            deadline.extend(_HANG_UP_SECONDS)
            await response.hang_up()
            return RunResult(Outcome.CALLER_DISCONNECTED, error=str(error)), 0

    def _emit_within(self, deadline: Deadline, emit: Emit) -> Emit:
        """`emit` within `reader_idle` seconds, and with the deadline's clock stopped: it is the reader that is slow."""
        idle = self._reader_idle

        def bounded(lines: Sequence[bytes]) -> Awaitable[None] | None:
            taken = emit(lines)
            return None if taken is None else within(taken)

        async def within(taken: Awaitable[None]) -> None:
            bound = asyncio.timeout(idle)
            try:
                with deadline.paused():
                    async with bound:
                        await taken
            except TimeoutError:
                if not bound.expired():
                    raise
                raise CallerDisconnectedError(f"the reader took nothing of the stream for {idle:g} s") from None

        return bounded

    async def _lines(
        self, response: ToolResponse, emit: Emit | None, progress: Callable[[Progress], None], fetcher: FileFetcher
    ) -> tuple[RunResult, int]:
        items: list[bytes] = []
        passed_on = False  # of no items at all the result is an empty list, however it was requested
        size = 0
        async for together in response.lines():
            to_emit: list[bytes] = []
            for raw in together:
                try:
                    line = decode(LINE, raw)
                except ValueError:
                    await _emitted(emit, to_emit)
                    return invalid_output("a line of the plugin's stream is not what the runtime protocol says"), 0
                if line.event == "end":
                    await _emitted(emit, to_emit)
                    collected = b"null" if passed_on else b"[" + b",".join(items) + b"]"
                    return result_of(line, result=collected), line.oom_kills
                if line.event == "progress" and (reported := progress_of(raw)) is not None:
                    progress(reported)
                if line.event == "item" and line.files:
                    # Before the item is passed on: its reader may request the file at once.
                    await _emitted(emit, to_emit)
                    line.data = msgspec.Raw(await fetcher.fetch(line.files, bytes(line.data)))
                    raw = b'{"event":"item","data":%b}' % bytes(line.data)  # noqa: PLW2901
                if emit is not None and line.event in _EMITTED:
                    passed_on = passed_on or line.event == "item"
                    to_emit.append(raw)
                elif emit is None and line.event == "item":
                    size += len(line.data) + 1
                    if size > self._max_result:
                        text = f"the items together are over the limit of {format_size(self._max_result)}"
                        return invalid_output(f"{text}; request a stream"), 0
                    items.append(bytes(line.data))
            await _emitted(emit, to_emit)
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


async def _emitted(emit: Emit | None, lines: list[bytes]) -> None:
    """Emit the lines, which are none of `lines` afterwards."""
    if emit is not None and lines and (taken := emit(lines.copy())) is not None:
        await taken
    lines.clear()


def _timed(result: RunResult, seconds: float) -> RunResult:
    """`result` with the time that the plugin reports, or else with `seconds`."""
    return result if result.execution_time_ms else replace(result, execution_time_ms=seconds * 1000)


def _over_time(tool: str, timeout: float) -> RunResult:
    return RunResult(
        Outcome.TIMEOUT,
        error=f"{tool} ran longer than {timeout:g} s. The plugin is being stopped; its health shows where it hung.",
        reason_code=ReasonCode.TIMEOUT,
    )


def not_stored(error: StorageError) -> RunResult:
    """The result of a run whose files have no room here."""
    return RunResult(Outcome.UNAVAILABLE, error=str(error), error_type="NotStored")


def ended_by(verdict: Verdict) -> RunResult:
    """The result of a run whose instance ended under it."""
    if verdict.code in ENDED_BY_PLUGIN:
        return RunResult(Outcome.PLUGIN_FAILED, error=verdict.reason, reason_code=verdict.code)
    # Not `PluginUnavailable`, which says that it has not begun: the plugin may have other instances.
    return RunResult(Outcome.UNAVAILABLE, error=verdict.reason, error_type="InstanceEnded", reason_code=verdict.code)
