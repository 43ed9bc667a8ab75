"""GET /v1/gpus: inventory, health and leases as last observed; POST /v1/gpus/{uuid}/release ends a quarantine."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

from orchestrator.api.context import Context
from orchestrator.api.problems import problem

router = APIRouter(prefix="/v1/gpus", tags=["gpus"])


@router.get("")
async def gpus(context: Context) -> Mapping[str, Any]:
    """All GPUs and MIG instances of this host with their holders, as last observed: it does not query the driver."""
    return context.fleet.gpus()


@router.post(
    "/{uuid}/release",
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
