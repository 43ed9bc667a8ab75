"""A run as the API shows it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from orchestrator.tools.run_lookup import RunPhase, RunView


class ProgressResponse(BaseModel):
    """`fraction` within 0..1."""

    fraction: float | None
    message: str


class RunResponse(BaseModel):
    """Times are ISO 8601 with their zone."""

    run_id: str
    plugin: str
    tool: str
    state: Literal["queued", "running", "finished", "interrupted"]
    asynchronous: bool
    accepted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    generation: int
    outcome: str | None
    reason_code: str | None
    execution_time_ms: float | None
    request_bytes: int | None
    response_bytes: int | None
    queue_position: int | None
    """1 for the next; null for a run that does not wait."""
    cancel_requested: bool
    progress: ProgressResponse | None
    caller: str | None
    """The name of the key that it was called with; null where no key is needed."""
    retried_from: int | None
    """The generation of the instance that ended under it: it was made once more, in `generation`."""
    host: str | None = None
    """Behind a front, the host that has it."""
    id: int
    """Its number in the history, for `before`; 0 for a run that is not yet in it."""


def run_response(view: RunView) -> RunResponse:
    record = view.record
    progress = view.progress
    return RunResponse(
        run_id=record.run_id,
        plugin=record.plugin,
        tool=record.tool,
        state=view.phase.value,
        asynchronous=record.asynchronous,
        accepted_at=record.accepted_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        generation=record.generation,
        outcome=record.outcome,
        reason_code=record.reason_code,
        execution_time_ms=record.execution_ms,
        request_bytes=record.request_bytes,
        response_bytes=record.response_bytes,
        queue_position=view.queue_position if view.phase is RunPhase.QUEUED else None,
        cancel_requested=view.cancel_requested,
        progress=None if progress is None else ProgressResponse(fraction=progress.fraction, message=progress.message),
        caller=record.caller,
        retried_from=record.retried_from,
        id=record.id,
    )
