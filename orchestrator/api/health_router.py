"""GET /v1/plugins and GET /v1/plugins/{name}/health: 200, and 404 for an unknown name.

Answered from the registry alone: they wait neither for the engine nor for a plugin.
"""

import time

from fastapi import APIRouter, Response

from orchestrator.api.concealment import concealment, records_seen
from orchestrator.api.context import Context, Who
from orchestrator.api.problems import unknown_plugin
from orchestrator.health.health_model import (
    PluginDetailResponse,
    PluginHealthResponse,
    detail_response,
    health_response,
)

router = APIRouter(prefix="/v1/plugins", tags=["health"])


@router.head("", response_model=list[PluginHealthResponse], include_in_schema=False)
@router.get("", response_model=list[PluginHealthResponse])
async def list_plugins(context: Context, who: Who) -> Response:
    """All plugins that the caller's key is for, failed ones included."""
    if who.sees_every_plugin:
        text = context.listing.encode(context.registry.list(), time.monotonic())
        return Response(text, media_type="application/json")
    shown = concealment(who, context)
    # Not by the listing, which holds what it has encoded for as long as all are listed.
    texts = [
        shown.json(health_response(record, time.monotonic()).model_dump_json().encode())
        for record in records_seen(who, context.registry)
    ]
    return Response(b"[" + b",".join(texts) + b"]", media_type="application/json")


@router.head("/{name}/health", response_model=PluginDetailResponse, include_in_schema=False)
@router.get("/{name}/health", response_model=PluginDetailResponse, responses={404: {"description": "No such plugin"}})
async def plugin_health(name: str, context: Context, who: Who) -> Response:
    """One plugin, with the post-mortem of an instance that has ended."""
    record = context.registry.get(name)
    if record is None:
        return unknown_plugin(name)
    text = detail_response(record, time.monotonic()).model_dump_json().encode()
    return Response(concealment(who, context).json(text), media_type="application/json")
