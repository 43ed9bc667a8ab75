"""GET /v1/runs, and one run: its state, its result, its files, its cancellation."""

from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from orchestrator.access.principal import Principal
from orchestrator.api.concealment import Concealment, concealment
from orchestrator.api.context import ApiContext, Context, Who
from orchestrator.api.file_response import StoredFileResponse
from orchestrator.api.problems import envelope_around, problem, result_headers
from orchestrator.api.run_model import RunResponse, run_response
from orchestrator.sandbox.call import STATUS
from orchestrator.tools.result_store import StoredResult
from orchestrator.tools.run_lookup import RunPhase, RunView

router = APIRouter(prefix="/v1/runs", tags=["runs"])

_FILE_CHUNK: Final = 256 * 1024
_RETRY_AFTER: Final = "1"  # seconds after which a caller may look again whether a run has ended

Limit = Annotated[int, Query(ge=1, le=500, description="Runs at most.")]
Before = Annotated[int | None, Query(ge=1, description="The `id` of the last run of the page before.")]
Wait = Annotated[float, Query(ge=0, le=600, description="Seconds to wait for the run's end.")]


@router.get("")
async def runs(
    context: Context,
    who: Who,
    *,
    plugin: str | None = None,
    state: RunPhase | None = None,
    limit: Limit = 100,
    before: Before = None,
) -> list[RunResponse]:
    """Runs that were admitted, newest first. A key that may run, but not operate, sees its own."""
    views = await context.tool_runner.lookup.page(plugin=plugin, phase=state, before=before, limit=limit, principal=who)
    return [run_response(view) for view in views]


@router.get("/{run_id}", response_model=RunResponse, responses={404: {"description": "No such run"}})
async def run(run_id: str, context: Context, who: Who) -> RunResponse | Response:
    """One run, from its acceptance until the history forgets it."""
    view = await context.tool_runner.lookup.one(run_id, who)
    return _unknown() if view is None else run_response(view)


@router.get(
    "/{run_id}/result",
    response_class=Response,
    responses={
        **{status: {"description": "The result envelope"} for status in sorted(set(STATUS.values()))},
        404: {"description": "No such run, or its result is not stored (any more)"},
        409: {"description": "The run has not ended (`Retry-After`), or it was cancelled"},
    },
)
async def result(run_id: str, context: Context, who: Who, wait: Wait = 0) -> Response:
    """The result of an asynchronous run, or of one that gave files: the envelope, with the status that the synchronous
    run would have had.
    """
    if not await _visible(run_id, context, who):
        return _unknown()
    if wait:
        await context.tool_runner.wait(run_id, wait)
    results, shown = context.tool_runner.results, concealment(who, context)
    if (stored := await results.find(run_id)) is not None:
        return _envelope(run_id, stored, shown)
    view = await context.tool_runner.lookup.one(run_id)
    if view is None:
        return _unknown()
    # It may have ended between the two looks: its result is stored before its end shows.
    if view.ended and (stored := await results.find(run_id)) is not None:
        return _envelope(run_id, stored, shown)
    return _without_result(view)


@router.get(
    "/{run_id}/files/{name}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file, by its own media type"},
        206: {"description": "The range that was requested"},
        304: {"description": "The caller has it (If-None-Match)"},
        400: {"description": "A malformed range"},
        404: {"description": "No such run or file, or it is not stored (any more)"},
        416: {"description": "It has no such range"},
    },
)
@router.head("/{run_id}/files/{name}", include_in_schema=False)
async def file(run_id: str, name: str, context: Context, who: Who) -> Response:
    """A file that a run gave, also while the run goes on; stored as long as the run's result."""
    if not await _visible(run_id, context, who):
        return _unknown()
    stored = await context.tool_runner.results.find_file(run_id, name)
    if stored is not None:
        return StoredFileResponse(stored, {"X-Run-Id": run_id})
    view = await context.tool_runner.lookup.one(run_id)
    if view is None:
        return _unknown()
    sentence = (
        "The run has no file of this name, or its files are not stored any more. `files` of its result lists all."
    )
    return problem(404, sentence, error_type="UnknownFile", plugin=view.record.plugin)


@router.delete(
    "/{run_id}",
    status_code=202,
    response_model=RunResponse,
    responses={
        200: {"model": RunResponse, "description": "It has ended"},
        404: {"description": "No such run"},
    },
)
async def cancel(run_id: str, context: Context, who: Who) -> Response:
    """Cancel a run. One that waits leaves the queue at once; one that executes is requested to end, and its container
    is stopped where it does not within `ORCHESTRATOR_CANCEL_GRACE`.
    """
    view = await context.tool_runner.cancel(run_id, who)
    if view is None:
        return _unknown()
    return JSONResponse(run_response(view).model_dump(mode="json"), status_code=200 if view.ended else 202)


async def _visible(run_id: str, context: ApiContext, who: Principal) -> bool:
    """Whether the caller may see this run; where there is none of this id, whether it may know that."""
    if who.sees_every_plugin and who.sees_every_run:
        return True
    return await context.tool_runner.lookup.one(run_id, who) is not None


def _envelope(run_id: str, stored: StoredResult, shown: Concealment) -> Response:
    before, after = envelope_around(shown.result(stored.result), plugin=stored.plugin, tool=stored.tool, run_id=run_id)

    # Not a coroutine: the framework reads the file in a thread.
    def body() -> Iterator[bytes]:
        with stored.file as file:
            yield before
            while chunk := file.read(_FILE_CHUNK):
                yield chunk
            yield after

    headers = result_headers(stored.result, run_id)
    headers["Content-Length"] = str(len(before) + stored.size + len(after))
    return StreamingResponse(
        body(), status_code=STATUS[stored.result.outcome], media_type="application/json", headers=headers
    )


def _without_result(view: RunView) -> Response:
    record = view.record
    if not view.ended:
        response = problem(
            409, f"The run is {view.phase}; it has no result yet.", error_type="RunNotFinished", plugin=record.plugin
        )
        response.headers["Retry-After"] = _RETRY_AFTER
        return response
    if view.phase is RunPhase.INTERRUPTED:
        sentence = "The run was interrupted by a restart of the orchestrator: it has no result."
    elif record.asynchronous:
        sentence = "The run's result is not stored any more, or could not be written to the disk."
    else:
        sentence = (
            "Only results of asynchronous runs (Prefer: respond-async), and of runs that gave files, are stored; this "
            "caller was answered."
        )
    return problem(404, sentence, error_type="NoResult", plugin=record.plugin)


def _unknown() -> Response:
    return problem(404, "No such run, or its record has expired. GET /v1/runs lists all runs.", error_type="UnknownRun")
