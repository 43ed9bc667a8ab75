"""GET /v1/runs, and one run: how far it is, its result, its end on demand."""

from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from orchestrator.api.context import Context
from orchestrator.api.problems import STATUS, envelope_around, problem, result_headers
from orchestrator.api.run_model import RunResponse, run_response
from orchestrator.tools.result_store import KeptResult
from orchestrator.tools.run_lookup import RunPhase, RunView

router = APIRouter(prefix="/v1/runs", tags=["runs"])

_READ: Final = 256 * 1024
_ASK_AGAIN: Final = "1"
"""Seconds after which somebody may look again whether a run has ended."""

Limit = Annotated[int, Query(ge=1, le=500, description="Runs at most.")]
Before = Annotated[int | None, Query(ge=1, description="The `id` of the last run of the page before.")]
Wait = Annotated[float, Query(ge=0, le=600, description="Seconds to wait for the run's end.")]


@router.get("")
async def runs(
    context: Context,
    *,
    plugin: str | None = None,
    state: RunPhase | None = None,
    limit: Limit = 100,
    before: Before = None,
) -> list[RunResponse]:
    """Runs that were admitted, newest first."""
    views = await context.tool_runner.lookup.page(plugin=plugin, phase=state, before=before, limit=limit)
    return [run_response(view) for view in views]


@router.get("/{run_id}", response_model=RunResponse, responses={404: {"description": "No such run"}})
async def run(run_id: str, context: Context) -> RunResponse | Response:
    """One run, from its acceptance until the history forgets it."""
    view = await context.tool_runner.lookup.one(run_id)
    return _unknown() if view is None else run_response(view)


@router.get(
    "/{run_id}/result",
    response_class=Response,
    responses={
        **{status: {"description": "The result envelope"} for status in sorted(set(STATUS.values()))},
        404: {"description": "No such run, or its result is not kept (any more)"},
        409: {"description": "The run has not ended; `Retry-After`. Or its result: it was cancelled"},
    },
)
async def result(run_id: str, context: Context, wait: Wait = 0) -> Response:
    """What came of an asynchronous run: the envelope, with the status that the synchronous run would have had."""
    if wait:
        await context.tool_runner.wait(run_id, wait)
    kept = await context.tool_runner.results.find(run_id)
    if kept is not None:
        return _envelope(run_id, kept)
    view = await context.tool_runner.lookup.one(run_id)
    if view is None:
        return _unknown()
    return _without_result(view)


@router.delete(
    "/{run_id}",
    status_code=202,
    response_model=RunResponse,
    responses={
        200: {"model": RunResponse, "description": "It has ended: before, or by this already"},
        404: {"description": "No such run"},
    },
)
async def cancel(run_id: str, context: Context) -> Response:
    """Have a run end. One that waits is out of the queue at once; one that executes is asked to end, and its
    container is stopped where it does not within `ORCHESTRATOR_CANCEL_GRACE`.
    """
    view = await context.tool_runner.cancel(run_id)
    if view is None:
        return _unknown()
    return JSONResponse(run_response(view).model_dump(mode="json"), status_code=200 if view.ended else 202)


def _envelope(run_id: str, kept: KeptResult) -> Response:
    before, after = envelope_around(kept.result, plugin=kept.plugin, tool=kept.tool, run_id=run_id)

    def body() -> Iterator[bytes]:
        with kept.file as file:
            yield before
            while chunk := file.read(_READ):
                yield chunk
            yield after

    headers = result_headers(kept.result, run_id)
    headers["Content-Length"] = str(len(before) + kept.size + len(after))
    return StreamingResponse(
        body(), status_code=STATUS[kept.result.outcome], media_type="application/json", headers=headers
    )


def _without_result(view: RunView) -> Response:
    record = view.record
    if not view.ended:
        response = problem(
            409, f"The run is {view.phase}; it has no result yet.", error_type="RunNotFinished", plugin=record.plugin
        )
        response.headers["Retry-After"] = _ASK_AGAIN
        return response
    if view.phase is RunPhase.INTERRUPTED:
        sentence = "The run was interrupted by a restart of the orchestrator: it has no result."
    elif record.asynchronous:
        sentence = "The run's result is not kept any more, or could not be written to the disk."
    else:
        sentence = "Results are kept of asynchronous runs (Prefer: respond-async) only; this one's caller was given it."
    return problem(404, sentence, error_type="NoResult", plugin=record.plugin)


def _unknown() -> Response:
    return problem(
        404, "There is no such run, or not any more. GET /v1/runs lists those there are.", error_type="UnknownRun"
    )
