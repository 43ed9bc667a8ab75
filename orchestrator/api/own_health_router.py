"""The orchestrator itself: /healthz (it answers) and /readyz (every plugin has come to its first verdict)."""

from fastapi import APIRouter, Response

from orchestrator.api.context import Context
from orchestrator.lifecycle import PluginLifecycleState

router = APIRouter(tags=["orchestrator"])


@router.get("/healthz")
async def healthz(context: Context) -> dict[str, object]:
    """200 while the process serves. `history` says what keeps the history from being written, and what is lost."""
    history = context.history
    return {
        "status": "ok",
        "history": {"problem": history.problem, "notice": history.notice, "lost": history.lost},
    }


@router.get("/readyz")
async def readyz(context: Context, response: Response) -> dict[str, object]:
    """200 once no plugin is on its first way up; 503 before, with the names that are waited for."""
    starting = [r.name for r in context.registry.list() if r.state is PluginLifecycleState.LOADED and r.first]
    response.status_code = 503 if starting else 200
    return {"status": "starting" if starting else "ready", "waiting_for": starting}
