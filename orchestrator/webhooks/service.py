"""WebhookService: the configured webhooks for the rest of the orchestrator. Loads what sends where there is one."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.registry.history import DeliveryRecord, HistoryStore
from orchestrator.webhooks.config import Webhook, WebhooksFileError
from orchestrator.webhooks.messages import WebhookOutbox
from orchestrator.webhooks.schedule import Answer, Policy

if TYPE_CHECKING:
    from orchestrator.webhooks.dispatcher import WebhookDispatcher
    from orchestrator.webhooks.sender import Sender


class WebhookService:
    """`open` it once the history is open, and `close` it before that is closed. Without a webhook it does nothing."""

    def __init__(self, webhooks: Iterable[Webhook], *, ca_bundle: Path | None, policy: Policy | None = None) -> None:
        """`ca_bundle`: the certificates by which receivers are verified; None: those of the host. Raises
        `WebhooksFileError` where it cannot be read.
        """
        self.configured: Mapping[str, Webhook] = {webhook.name: webhook for webhook in webhooks}
        """By name, in the order of the operator's file."""
        self.outbox = WebhookOutbox(tuple(self.configured.values())) if self.configured else None
        """For the history."""
        self._trusted = _trusted(ca_bundle) if self.configured else None
        self._policy = policy or Policy()
        self._sender: Sender | None = None
        self._dispatcher: WebhookDispatcher | None = None

    async def open(self, history: HistoryStore) -> None:
        if self.outbox is None:
            return
        # In a thread: to load the HTTP client takes a while.
        self._sender = await asyncio.to_thread(self._load_sender)
        module = import_module("orchestrator.webhooks.dispatcher")
        webhooks = tuple(self.configured.values())
        dispatcher: WebhookDispatcher = module.WebhookDispatcher(
            webhooks, history, self.outbox, self._sender.send, policy=self._policy
        )
        dispatcher.start()
        self._dispatcher = dispatcher

    async def close(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.close()
        if self._sender is not None:
            await self._sender.close()

    @property
    def paused(self) -> Mapping[str, str]:
        """Webhooks that nothing is sent to, and why."""
        return {} if self._dispatcher is None else self._dispatcher.paused

    async def test(self, name: str) -> Answer:
        """Send a message of the type `webhook.test` to a configured webhook at once."""
        return await self._running.test(name)

    async def repeat(self, name: str, delivery_id: str) -> DeliveryRecord | None:
        """Deliver the message of a delivery that has ended once more, behind all others of its plugin. Returns the new
        delivery; None where it cannot be stored.
        """
        return await self._running.repeat(name, delivery_id)

    @property
    def _running(self) -> "WebhookDispatcher":
        assert self._dispatcher is not None  # noqa: S101 - a webhook is configured, and the service is open
        return self._dispatcher

    def _load_sender(self) -> "Sender":
        module = import_module("orchestrator.webhooks.sender")
        sender: Sender = module.Sender(
            self.configured.values(), trusted=self._trusted, time_limit=self._policy.time_limit
        )
        return sender


def _trusted(ca_bundle: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except OSError as error:  # of which TLS's own are a kind
        reason = error.strerror or error
        raise WebhooksFileError(
            f"Webhooks: the certificates in {ca_bundle} cannot be read: {reason}. Correct ORCHESTRATOR_CA_BUNDLE."
        ) from None
