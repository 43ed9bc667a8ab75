"""A run from its acceptance to its end, as the orchestrator has it in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec

from orchestrator.formatting import MAX_NAME_LENGTH
from orchestrator.registry.history import RunRecord
from orchestrator.sandbox.call import Progress, RunResult, ToolCall
from orchestrator.sandbox.sandbox_runner import Emit, Reader
from orchestrator.supervisor.instance import Instance
from orchestrator.tools.run_observer import RunWatch


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class LiveRun:
    """Mutable, and changed only within `tools`."""

    record: RunRecord
    watch: RunWatch
    gone: asyncio.Future[None] = field(default_factory=_future)
    """Done when nobody is there any more for its answer: what waits does not begin, a stream ends."""
    broken_off: asyncio.Future[None] = field(default_factory=_future)
    """Done when its end is waited for no longer."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    instance: Instance | None = None
    """That executes it."""
    cancel_requested: bool = False
    progress: Progress | None = None
    request_bytes: int | None = None
    body_sent: bool = True
    response_bytes: int = 0

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def begin(self, instance: Instance, now: datetime) -> RunRecord:
        """It executes."""
        self.instance = instance
        self.record = msgspec.structs.replace(self.record, generation=instance.generation, started_at=now)
        return self.record

    def end(self, result: RunResult) -> RunRecord:
        """It has ended; all that is known of it."""
        self.record = msgspec.structs.replace(
            self.record,
            finished_at=datetime.now(UTC),
            outcome=result.outcome.value,
            reason_code=result.reason_code,
            execution_ms=result.execution_time_ms,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes + len(result.result or b""),
        )
        return self.record

    def give_up(self) -> None:
        """Nobody wants its answer."""
        if not self.gone.done():
            self.gone.set_result(None)

    def break_off(self) -> None:
        """Its end is waited for no longer."""
        if not self.broken_off.done():
            self.broken_off.set_result(None)

    def measured(self, call: ToolCall) -> ToolCall:
        """`call`, its body counted as it goes by."""
        if isinstance(call.body, bytes):
            return call
        self.request_bytes, self.body_sent = 0, False
        return replace(call, body=self._counted(call.body))

    def reader(self, emit: Emit | None) -> Reader:
        """Who reads what comes of it, through whom it goes by here."""
        if emit is None:
            return Reader(None, self.gone, self._note_progress)

        async def counted(line: bytes) -> None:
            self.response_bytes += len(line)
            await emit(line)

        return Reader(counted, self.gone, self._note_progress)

    def _note_progress(self, progress: Progress) -> None:
        self.progress = progress

    async def _counted(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in body:
            self.request_bytes = (self.request_bytes or 0) + len(chunk)
            yield chunk
        self.body_sent = True


def accepted(plugin: str, call: ToolCall, watch: RunWatch) -> LiveRun:
    """A run that has just come. One whose answer is kept in the container is asynchronous."""
    return LiveRun(
        RunRecord(
            run_id=call.run_id,
            plugin=plugin,
            tool=call.tool[:MAX_NAME_LENGTH],
            accepted_at=datetime.now(UTC),
            asynchronous=call.keep,
        ),
        watch,
        request_bytes=len(call.body) if isinstance(call.body, bytes) else None,
    )
