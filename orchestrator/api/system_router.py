"""The orchestrator and its host: /healthz, /readyz, /metrics, /v1/gpus; and the API keys in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from orchestrator.access.principal import Right
from orchestrator.api.concealment import concealment, gpus_seen
from orchestrator.api.context import Context, Who
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
async def readyz(context: Context, who: Who, response: Response) -> dict[str, object]:
    """200 once every plugin has started or failed once; 503 before, with the names of those that have not, and while
    the orchestrator stops. Where keys are for some plugins only, names come with a key that sees them.
    `drained`, on a host that an operator drained, is for fronts.
    """
    if context.shutdown.requested.is_set():
        response.status_code = 503
        return {"status": "stopping", "waiting_for": list(filter(who.sees, context.tool_runner.busy_plugins))}
    starting = [r.name for r in context.registry.list() if r.state is PluginLifecycleState.LOADED and r.first]
    response.status_code = 503 if starting else 200
    found: dict[str, object] = {
        "status": "starting" if starting else "ready",
        "waiting_for": list(filter(who.sees, starting)),
    }
    return {**found, "drained": True} if context.drain_mark.drained else found


@router.get(
    "/metrics",
    tags=["orchestrator"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request, context: Context, who: Who) -> Response:
    """Prometheus text, or OpenMetrics if `Accept` requests it. A key for some plugins gets the series of those alone,
    one that sees only its own runs those of no other caller.
    """
    text, content_type = context.metrics.text(",".join(request.headers.getlist("accept")), who)
    return Response(text, headers={"Content-Type": content_type})


class Caller(BaseModel):
    """Who calls, and what it may do."""

    name: str | None
    """That of its key, or of the user whom a proxy names; null where no key is needed."""
    may: list[Right]
    plugins: list[str]
    """Patterns of the names of the plugins that it sees."""


@router.get("/v1/caller", tags=["orchestrator"])
async def caller(who: Who) -> Caller:
    """Who the caller is, by its key, and its rights: clients need not offer what would be refused."""
    return Caller(name=who.name, may=[right for right in Right if who.may(right)], plugins=list(who.grant.plugins))


@router.get("/v1/gpus", tags=["gpus"])
async def gpus(context: Context, who: Who) -> Mapping[str, Any]:
    """All GPUs and MIG instances of this host with their holders, as last observed: it does not query the driver. For a
    key for some plugins, the devices that those hold.
    """
    return gpus_seen(context.fleet.gpus(), concealment(who, context))


@router.post(
    "/v1/gpus/{uuid}/release",
    tags=["gpus"],
    response_model=None,
    responses={409: {"description": "Not in a quarantine that an operator can end"}},
)
async def release(uuid: str, context: Context, who: Who) -> Mapping[str, Any] | Response:
    """End a GPU's quarantine whatever memory is in use on it, after an operator has checked what uses it."""
    shown = concealment(who, context)
    seen = who.sees_every_plugin or any(
        device["uuid"] == uuid for device in gpus_seen(context.fleet.gpus(), shown)["devices"]
    )
    if not seen or not context.fleet.clear_gpu(uuid):
        sentence = (
            "This GPU is not in a quarantine that an operator can end. A GPU whose container could not be stopped is "
            "released once the container is removed. GET /v1/gpus lists all quarantines."
        )
        return problem(409, sentence, error_type="NotQuarantined")
    return gpus_seen(context.fleet.gpus(), shown)


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
