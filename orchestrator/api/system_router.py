"""The orchestrator and its host: /healthz, /readyz, /metrics, /v1/gpus; and the API keys in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from orchestrator.api.context import Context
from orchestrator.api.problems import problem
from orchestrator.lifecycle import PluginLifecycleState

router = APIRouter()


@router.get("/healthz", tags=["orchestrator"])
async def healthz(context: Context) -> dict[str, object]:
    """200 while the process serves. `history`: why it cannot be written, and how many entries are lost."""
    history = context.history
    return {
        "status": "ok",
        "history": {"problem": history.problem, "notice": history.notice, "lost": history.lost},
    }


@router.get("/readyz", tags=["orchestrator"])
async def readyz(context: Context, response: Response) -> dict[str, object]:
    """200 once every plugin has started or failed once; 503 before, with the names of those that have not, and while
    the orchestrator stops.
    """
    if context.shutdown.requested.is_set():
        response.status_code = 503
        return {"status": "stopping", "waiting_for": context.tool_runner.busy_plugins}
    starting = [r.name for r in context.registry.list() if r.state is PluginLifecycleState.LOADED and r.first]
    response.status_code = 503 if starting else 200
    return {"status": "starting" if starting else "ready", "waiting_for": starting}


@router.get(
    "/metrics",
    tags=["orchestrator"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request, context: Context) -> Response:
    """Prometheus text, or OpenMetrics if `Accept` requests it."""
    text, content_type = context.metrics.text(",".join(request.headers.getlist("accept")))
    return Response(text, headers={"Content-Type": content_type})


@router.get("/v1/gpus", tags=["gpus"])
async def gpus(context: Context) -> Mapping[str, Any]:
    """All GPUs and MIG instances of this host with their holders, as last observed: it does not query the driver."""
    return context.fleet.gpus()


@router.post(
    "/v1/gpus/{uuid}/release",
    tags=["gpus"],
    response_model=None,
    responses={409: {"description": "Not in a quarantine that an operator can end"}},
)
async def release(uuid: str, context: Context) -> Mapping[str, Any] | Response:
    """End a GPU's quarantine whatever memory is in use on it, after an operator has checked what uses it."""
    if not context.fleet.clear_gpu(uuid):
        sentence = (
            "This GPU is not in a quarantine that an operator can end. A GPU whose container could not be stopped is "
            "released once the container is removed. GET /v1/gpus lists all quarantines."
        )
        return problem(409, sentence, error_type="NotQuarantined")
    return context.fleet.gpus()


def document_api_keys(app: FastAPI) -> None:
    """Declare the API key in the OpenAPI document, so that /docs has a field for it."""
    described = app.openapi

    def with_keys() -> dict[str, Any]:
        document = described()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer", "description": "Only if API keys are configured."}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = with_keys  # type: ignore[method-assign]  # as FastAPI documents it
