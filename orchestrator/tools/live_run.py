"""LiveRun: a run in memory, from its acceptance to its end, and its cancellation."""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Final

import msgspec

from orchestrator.errors import ChannelError
from orchestrator.formatting import MAX_NAME_LENGTH
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry.history import RunRecord
from orchestrator.sandbox.call import FileStore, Outcome, Progress, RunResult, StreamedBody, ToolCall
from orchestrator.sandbox.cancel_when import Signal
from orchestrator.sandbox.sandbox_runner import Emit, ResultSink
from orchestrator.supervisor.instance import Instance
from orchestrator.tools.run_observer import RunWatch

_CANCEL_RETRY: Final = 0.25  # seconds; a container may not know the run yet, while the call is on its way
_MILLISECOND: Final = timedelta(milliseconds=1)


class Abort(Enum):
    """Why a run ends before its result is there."""

    CANCELLED = auto()
    """By an operator or its caller; its instance ends with it where its tool was executing."""
    STOPPING = auto()
    """The orchestrator stops: its caller is answered, and nobody will ever have its result."""
    HANDED_OVER = auto()
    """The orchestrator stops, and the next one goes on with it: its record stays in flight."""


class LiveRun(msgspec.Struct, eq=False):
    """Mutable, and changed only within `tools`."""

    record: RunRecord
    watch: RunWatch
    caller_disconnected: Signal = msgspec.field(default_factory=Signal)
    """Done when the caller no longer waits for the answer: a run that waits does not start, a stream ends."""
    aborted: Signal = msgspec.field(default_factory=Signal)
    """Done when the run must end at once; `abort_reason` says why."""
    abort_reason: Abort = Abort.CANCELLED
    cut_short: bool = False
    """The orchestrator gave up on it while it executed: its end will never be known."""
    ended: Signal = msgspec.field(default_factory=Signal)
    instance: Instance | None = None
    """The instance that executes it."""
    cancel_requested: bool = False
    """By an operator or by its caller."""
    ends_with_caller: bool = False
    """Whether nobody waits for its result once the caller has disconnected."""
    call: ToolCall | None = None
    """Of an asynchronous run: what the next orchestrator needs to start it."""
    in_container: bool = False
    """Whether its container is known to have all of the call: it goes on there without an orchestrator."""
    progress: Progress | None = None
    request_bytes: int | None = None
    """Known from the start, or else counted by `body`."""
    body: StreamedBody | None = None
    """Of a run that has started."""
    response_bytes: int = 0
    run_id: str = ""
    """The record's; a field, since each run looks at it again and again."""

    def __post_init__(self) -> None:
        self.run_id = self.record.run_id

    @property
    def reported_progress(self) -> Progress | None:
        """The last progress; that of an adopted run, whose stream broke off, by its container's status."""
        if self.progress is not None or self.instance is None:
            return self.progress
        found = (run.progress for run in self.instance.runs if run.run_id == self.run_id and run.progress is not None)
        return next((Progress(*progress) for progress in found), None)

    def start(self, instance: Instance, call: ToolCall, now: datetime) -> RunRecord:
        """Mark it as executing; once more, where it has been before."""
        earlier = None if self.instance is None else self.record.generation
        self.instance = instance
        if not isinstance(call.body, bytes):
            self.body = call.body
        self.record = msgspec.structs.replace(
            self.record, generation=instance.generation, started_at=now, retried_from=earlier
        )
        return self.record

    def end(self, result: RunResult) -> RunRecord:
        """Its complete record."""
        self.record = msgspec.structs.replace(
            self.record,
            finished_at=datetime.now(UTC),
            outcome=result.outcome.value,
            reason_code=result.reason_code,
            execution_ms=result.execution_time_ms,
            request_bytes=self.request_bytes if self.body is None else self.body.passed_on,
            response_bytes=self.response_bytes + _size(result),
        )
        return self.record

    def note_disconnect(self) -> None:
        self.caller_disconnected.set()

    def abort(self, reason: Abort = Abort.CANCELLED) -> None:
        """End it at once. The first reason counts."""
        if not self.aborted.done():
            self.abort_reason = reason
            self.aborted.set()

    async def cancel_with_grace(self, instance: Instance, grace: float) -> None:
        """Request the run's end from its container, and abort it where it has not ended within `grace` seconds."""
        if self.body_sent:  # else its tool has not been called
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._request_cancel(instance)
                    await self.ended.wait()
                    return
        self.abort()

    async def cancel_for_disconnect(self, instance: Instance) -> None:
        """Request the run's end from its container. One that does not end goes on."""
        if self.body_sent:  # else its tool has not been called, and the body breaks off
            await self._request_cancel(instance)

    def cancelled_result(self, grace: float) -> RunResult:
        """The result of an aborted run. One whose tool was executing ends its instance."""
        if self.instance is None:
            return RunResult(Outcome.CANCELLED, error="The run was cancelled before it started.")
        if not self.body_sent:
            return RunResult(Outcome.CANCELLED, error="The run was cancelled while its body was being sent.")
        started = self.record.started_at
        return RunResult(
            Outcome.CANCELLED,
            execution_time_ms=0.0 if started is None else (datetime.now(UTC) - started) / _MILLISECOND,
            error=f"The run {self.run_id} of {self.record.tool} was cancelled and did not stop within {grace:g} s, so "
            "its container was stopped. Restart the plugin to use it again.",
            reason_code=ReasonCode.STOPPED,
        )

    @property
    def body_sent(self) -> bool:
        return self.body is None or self.body.complete

    def sink(self, emit: Emit | None, files: FileStore) -> ResultSink:
        """The run as the sink of its call, which counts what goes on to `emit`."""
        if emit is None:
            return ResultSink(None, self.caller_disconnected, self._note_progress, files)

        def counted(lines: Sequence[bytes]) -> Awaitable[None] | None:
            self.response_bytes += sum(map(len, lines))
            return emit(lines)

        return ResultSink(counted, self.caller_disconnected, self._note_progress, files)

    def _note_progress(self, progress: Progress) -> None:
        self.progress = progress

    async def _request_cancel(self, instance: Instance) -> None:
        while not self.ended.done():
            with suppress(ChannelError):
                if await instance.channel.cancel(self.run_id):
                    return
            await asyncio.sleep(_CANCEL_RETRY)


def _size(result: RunResult) -> int:
    """Bytes of the result and its files."""
    size = len(result.result or b"")
    return size + sum(file.size for file in result.files) if result.files else size


def accepted(plugin: str, call: ToolCall, watch: RunWatch, record: RunRecord | None = None) -> LiveRun:
    """A run that has just been accepted; asynchronous where its container retains the answer. `record`: of one that an
    earlier orchestrator accepted.
    """
    return LiveRun(
        record
        or RunRecord(
            run_id=call.run_id,
            plugin=plugin,
            tool=call.tool[:MAX_NAME_LENGTH],
            accepted_at=datetime.now(UTC),
            asynchronous=call.keep,
            caller=call.caller,
        ),
        watch,
        request_bytes=len(call.body) if isinstance(call.body, bytes) else None,
        ends_with_caller=not (call.id_chosen or call.keep),
        call=call if call.keep else None,
    )
