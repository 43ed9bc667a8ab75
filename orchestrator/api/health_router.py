"""GET /v1/plugins and GET /v1/plugins/{name}/health: 200, and 404 for an unknown name.

Answered from the registry alone: they wait neither for the engine nor for a plugin.
"""

import time

from fastapi import APIRouter, Response

from orchestrator.api.context import Context
from orchestrator.api.problems import unknown_plugin
from orchestrator.health.health_model import PluginDetailResponse, PluginHealthResponse, detail_response

router = APIRouter(prefix="/v1/plugins", tags=["health"])


@router.head("", response_model=list[PluginHealthResponse], include_in_schema=False)
@router.get("", response_model=list[PluginHealthResponse])
async def list_plugins(context: Context) -> Response:
    """All plugins, failed ones included."""
    text = context.listing.encode(context.registry.list(), time.monotonic())
    return Response(text, media_type="application/json")


@router.head("/{name}/health", response_model=PluginDetailResponse, include_in_schema=False)
@router.get("/{name}/health", response_model=PluginDetailResponse, responses={404: {"description": "No such plugin"}})
async def plugin_health(name: str, context: Context) -> Response:
    """One plugin, with the post-mortem of an instance that has ended."""
    record = context.registry.get(name)
    if record is None:
        return unknown_plugin(name)
    return Response(detail_response(record, time.monotonic()).model_dump_json(), media_type="application/json")
