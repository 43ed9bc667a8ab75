"""The orchestrator itself: /healthz, /readyz, /metrics, and the API keys in the OpenAPI document."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from orchestrator.api.context import Context
from orchestrator.lifecycle import PluginLifecycleState

router = APIRouter(tags=["orchestrator"])


@router.get("/healthz")
async def healthz(context: Context) -> dict[str, object]:
    """200 while the process serves. `history`: why it cannot be written, and how many entries are lost."""
    history = context.history
    return {
        "status": "ok",
        "history": {"problem": history.problem, "notice": history.notice, "lost": history.lost},
    }


@router.get("/readyz")
async def readyz(context: Context, response: Response) -> dict[str, object]:
    """200 once every plugin has started or failed once; 503 before, with the names of those that have not."""
    starting = [r.name for r in context.registry.list() if r.state is PluginLifecycleState.LOADED and r.first]
    response.status_code = 503 if starting else 200
    return {"status": "starting" if starting else "ready", "waiting_for": starting}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, context: Context) -> Response:
    """Prometheus text, or OpenMetrics if `Accept` requests it."""
    text, content_type = context.metrics.text(",".join(request.headers.getlist("accept")))
    return Response(text, headers={"Content-Type": content_type})


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
