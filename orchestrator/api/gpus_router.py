"""GET /v1/gpus: inventory, health and leases, as the last look saw them."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from orchestrator.api.context import Context

router = APIRouter(prefix="/v1/gpus", tags=["gpus"])


@router.get("")
async def gpus(context: Context) -> Mapping[str, Any]:
    """Every GPU and MIG instance of this host, and who holds it. Waits for nobody: it is the last look's picture."""
    return context.fleet.gpus()
