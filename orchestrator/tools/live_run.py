"""A run from its acceptance to its end, as the orchestrator has it in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from orchestrator.registry.history import RunRecord
from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.sandbox.sandbox_runner import Emit
from orchestrator.tools.run_observer import RunWatch

_LONGEST_NAME: Final = 80
"""Characters of a tool's name that are kept: there need not be a tool of that name."""


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class LiveRun:
    """Mutable, and changed only by the ToolRunner."""

    record: RunRecord
    watch: RunWatch
    gone: asyncio.Future[None] = field(default_factory=_future)
    """Done when nobody is there any more for its answer."""
    turn: asyncio.Future[None] | None = None
    """While it waits: done when it may begin."""
    request_bytes: int | None = None
    response_bytes: int = 0

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def begin(self, generation: int, now: datetime) -> RunRecord:
        """It executes, on this instance."""
        self.record = replace(self.record, generation=generation, started_at=now)
        return self.record

    def end(self, result: RunResult) -> RunRecord:
        """It has ended; all that is known of it."""
        self.record = replace(
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
        if not self.gone.done():
            self.gone.set_result(None)

    def measured(self, call: ToolCall) -> ToolCall:
        """`call`, its body counted as it goes by."""
        if isinstance(call.body, bytes):
            return call
        return replace(call, body=self._counted(call.body))

    def counting(self, emit: Emit | None) -> Emit | None:
        """`emit`, its lines counted as they go by."""
        if emit is None:
            return None

        async def counted(line: bytes) -> None:
            self.response_bytes += len(line)
            await emit(line)

        return counted

    async def _counted(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.request_bytes = 0
        async for chunk in body:
            self.request_bytes += len(chunk)
            yield chunk


def accepted(plugin: str, call: ToolCall, watch: RunWatch) -> LiveRun:
    """A run that has just come."""
    return LiveRun(
        RunRecord(
            run_id=call.run_id,
            plugin=plugin,
            tool=call.tool[:_LONGEST_NAME],
            accepted_at=datetime.now(UTC),
        ),
        watch,
        request_bytes=len(call.body) if isinstance(call.body, bytes) else None,
    )
