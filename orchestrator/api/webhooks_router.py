"""GET /v1/webhooks, their deliveries, and what an operator does with them."""

import json
import time
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from orchestrator.access.principal import Principal
from orchestrator.api.context import ApiContext, Context, Who
from orchestrator.api.problems import problem
from orchestrator.formatting import quoted
from orchestrator.registry.history import DeliveryRecord, DeliveryState
from orchestrator.registry.history.records import DeliveryCounts
from orchestrator.webhooks.config import Webhook

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    403: {"description": "The key is for some plugins alone"},
    404: {"description": "No such webhook"},
}

Before = Annotated[int | None, Query(ge=1, description="The `id` of the last delivery of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Deliveries at most.")]


class WebhookReport(BaseModel):
    """A webhook of the operator's file, and the numbers of its deliveries on file. `url`: without a user, a password or
    a query. `paused`: why nothing is sent to it.
    """

    name: str
    url: str
    events: list[str]
    plugins: list[str]
    pending: int
    delivered: int
    failed: int
    paused: str | None


class DeliveryReport(BaseModel):
    """A message for one webhook. `message_id`: the header `webhook-id`, the same in every attempt. `status` and `error`
    are those of the last attempt.
    """

    id: int
    delivery_id: str
    message_id: str
    webhook: str
    plugin: str
    type: str
    state: DeliveryState
    created_at: datetime
    attempts: int
    attempted_at: datetime | None
    status: int | None
    error: str | None
    body: dict[str, Any]


class TestReport(BaseModel):
    """What a test message was answered with. `error`: why it failed; null for a success."""

    webhook: str
    ok: bool
    status: int | None
    error: str | None
    duration_ms: float


@router.get("", responses={403: _RESPONSES[403]}, response_model=list[WebhookReport])
async def webhooks(context: Context, who: Who) -> list[WebhookReport] | Response:
    """The webhooks of the operator's file, in its order."""
    if (refusal := _refusal(who, context)) is not None:
        return refusal
    counts = await context.history.delivery_counts() if context.webhooks.configured else {}
    return [
        _webhook(webhook, counts.get(name, DeliveryCounts()), context.webhooks.paused.get(name))
        for name, webhook in context.webhooks.configured.items()
    ]


@router.get("/{webhook}/deliveries", responses=_RESPONSES, response_model=list[DeliveryReport])
async def deliveries(
    webhook: str,
    context: Context,
    who: Who,
    *,
    state: DeliveryState | None = None,
    limit: Limit = 100,
    before: Before = None,
) -> list[DeliveryReport] | Response:
    """Deliveries of a webhook, newest first: those that are pending, and the last that ended."""
    if (refusal := _refusal(who, context, webhook)) is not None:
        return refusal
    page = await context.history.deliveries(webhook, state=state, before=before, limit=limit)
    return [_delivery(each) for each in page]


@router.post(
    "/{webhook}/deliveries/{delivery_id}/repeat",
    status_code=202,
    response_model=DeliveryReport,
    responses={**_RESPONSES, 409: {"description": "It has not ended"}},
)
async def repeat(webhook: str, delivery_id: str, context: Context, who: Who) -> DeliveryReport | Response:
    """Deliver the message of a delivery that has ended once more, behind all others of its plugin. The answer is the
    new delivery.
    """
    if (refusal := _refusal(who, context, webhook)) is not None:
        return refusal
    old = await context.history.delivery(webhook, delivery_id)
    if old is None:
        sentence = (
            f"The webhook {webhook} has no delivery {quoted(delivery_id)}, or not any more. GET "
            f"/v1/webhooks/{webhook}/deliveries lists all."
        )
        return problem(404, sentence, error_type="UnknownDelivery")
    if old.state is DeliveryState.PENDING:
        sentence = f"The delivery {delivery_id} has not ended: it is attempted again by itself."
        return problem(409, sentence, error_type="DeliveryPending")
    new = await context.webhooks.repeat(webhook, delivery_id)
    if new is None:
        sentence = "The history cannot be written or read now. GET /healthz says why."
        return problem(503, sentence, error_type="NotStored")
    return _delivery(new)


@router.post("/{webhook}/test", response_model=TestReport, responses=_RESPONSES)
async def test(webhook: str, context: Context, who: Who) -> TestReport | Response:
    """Send a message of the type `webhook.test` at once, and say what it was answered with."""
    if (refusal := _refusal(who, context, webhook)) is not None:
        return refusal
    began = time.monotonic()
    answer = await context.webhooks.test(webhook)
    took = round((time.monotonic() - began) * 1000, 1)
    error = answer.problem
    return TestReport(webhook=webhook, ok=error is None, status=answer.status, error=error, duration_ms=took)


def _refusal(who: Principal, context: ApiContext, name: str | None = None) -> Response | None:
    """Why this caller gets nothing, or nothing of the webhook `name`."""
    if not who.sees_every_plugin:
        sentence = "Webhooks are of all plugins, and this key is for some alone. Use a key for all plugins."
        return problem(403, sentence, error_type="KeyForSomePlugins")
    if name is not None and name not in context.webhooks.configured:
        sentence = (
            f"No webhook named {quoted(name)}. GET /v1/webhooks lists all; ORCHESTRATOR_WEBHOOKS names the file that "
            "has them."
        )
        return problem(404, sentence, error_type="UnknownWebhook")
    return None


def _webhook(webhook: Webhook, counts: DeliveryCounts, paused: str | None) -> WebhookReport:
    return WebhookReport(
        name=webhook.name,
        url=webhook.shown_url,
        events=list(webhook.events),
        plugins=list(webhook.plugins),
        pending=counts.pending,
        delivered=counts.delivered,
        failed=counts.failed,
        paused=paused,
    )


def _delivery(record: DeliveryRecord) -> DeliveryReport:
    return DeliveryReport(
        id=record.id,
        delivery_id=record.delivery_id,
        message_id=record.message_id,
        webhook=record.webhook,
        plugin=record.plugin,
        type=record.type,
        state=record.state,
        created_at=record.created_at,
        attempts=record.attempts,
        attempted_at=record.attempted_at,
        status=record.status,
        error=record.error,
        body=json.loads(record.body),
    )
