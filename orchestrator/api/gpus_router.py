"""GET /v1/gpus: inventory, health and leases, as the last look saw them; and the way out of a quarantine."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

from orchestrator.api.context import Context
from orchestrator.api.problems import problem

router = APIRouter(prefix="/v1/gpus", tags=["gpus"])


@router.get("")
async def gpus(context: Context) -> Mapping[str, Any]:
    """Every GPU and MIG instance of this host, and who holds it. Waits for nobody: it is the last look's picture."""
    return context.fleet.gpus()


@router.post("/{uuid}/release", response_model=None, responses={409: {"description": "It is in no such quarantine"}})
async def release(uuid: str, context: Context) -> Mapping[str, Any] | Response:
    """Take a GPU out of quarantine, whatever its memory: for an operator who has looked at what still holds it."""
    if not context.fleet.clear_gpu(uuid):
        sentence = (
            "This GPU is in no quarantine that an operator can end. One whose container could not be ended is released "
            "when the container is gone; GET /v1/gpus shows which."
        )
        return problem(409, sentence, error_type="NotQuarantined")
    return context.fleet.gpus()
