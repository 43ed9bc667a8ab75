"""GET /metrics: what Prometheus gathers."""

from fastapi import APIRouter, Request, Response

from orchestrator.api.context import Context

router = APIRouter(tags=["orchestrator"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, context: Context) -> Response:
    """Prometheus text, or OpenMetrics where `Accept` asks for that."""
    text, content_type = context.metrics.text(",".join(request.headers.getlist("accept")))
    return Response(text, headers={"Content-Type": content_type})
