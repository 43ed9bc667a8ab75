"""WebhookDispatcher: delivers what the history has pending, in order for each webhook and plugin."""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import isinf
from typing import Final

from msgspec.structs import replace

from orchestrator.registry.history import DeliveryRecord, DeliveryState, HistoryStore
from orchestrator.registry.history.writes import DeliveryWrite
from orchestrator.webhooks.config import Webhook
from orchestrator.webhooks.messages import TEST, WebhookOutbox, body_of
from orchestrator.webhooks.schedule import (
    Answer,
    AttemptVerdict,
    Lane,
    Lanes,
    Policy,
    judge,
    pause,
)

_PAGE: Final = 20  # deliveries of a lane in memory
_SLICE: Final = 500  # lanes that are looked at in one go
_READ_AGAIN: Final = 1.0  # seconds after a read of the history that failed
_STATES: Final = {
    AttemptVerdict.DELIVERED: DeliveryState.DELIVERED,
    AttemptVerdict.RETRY: DeliveryState.PENDING,
    AttemptVerdict.GONE: DeliveryState.PENDING,
    AttemptVerdict.GIVE_UP: DeliveryState.FAILED,
}

Send = Callable[[Webhook, str, str], Awaitable[Answer]]
"""Makes one attempt to send a message, by its id and body. Raises nothing but cancellation."""

_log = logging.getLogger(__name__)


class WebhookDispatcher:
    """`start` it in the event loop, and `close` it before the history is closed."""

    # At least once: an attempt's end is noted after it, so a message whose note is lost is sent again, by the same id.

    def __init__(
        self,
        webhooks: Sequence[Webhook],
        history: HistoryStore,
        outbox: WebhookOutbox,
        send: Send,
        *,
        policy: Policy,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.webhooks: Mapping[str, Webhook] = {webhook.name: webhook for webhook in webhooks}
        self.paused: dict[str, str] = {}
        """Webhooks that rest, and why. A test that succeeds, a repeated delivery or a new start ends that."""
        self._history = history
        self._outbox = outbox
        self._send = send
        self._policy = policy
        self._chance = chance
        self._lanes = Lanes(policy.concurrency)
        self._attempts: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._outdated = True
        """There may be deliveries that no lane knows."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()

        def stored() -> None:
            with suppress(RuntimeError):  # the loop is closed: the next start delivers them
                loop.call_soon_threadsafe(self._look_again)

        self._outbox.on_stored = stored
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """Break off what is under way: its receivers may get it again after the next start."""
        tasks = [*self._attempts, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def test(self, name: str) -> Answer:
        """Send a message of the type `webhook.test` at once, beside all deliveries."""
        body = body_of(TEST, datetime.now(UTC), {"webhook": name})
        answer = await self._send(self.webhooks[name], f"msg_{secrets.token_hex(12)}", body)
        if answer.problem is None:
            self._resume(name)
        return answer

    async def repeat(self, name: str, delivery_id: str) -> DeliveryRecord | None:
        """Deliver the message of a delivery that has ended once more, behind all others of its plugin. Returns the new
        delivery; None where it cannot be stored.
        """
        new_id = self._history.repeat_delivery(delivery_id)
        await self._history.flush()
        self._resume(name)
        return await self._history.delivery(name, new_id)

    def _resume(self, name: str) -> None:
        if self.paused.pop(name, None) is not None:
            self._wake.set()

    def _look_again(self) -> None:
        self._outdated = True
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if self._outdated:
                self._outdated = False  # before the history is read: what is stored meanwhile has it read again
                if not await self._look():
                    self._outdated = True
            # One reading of the clock for both: a lane that came due between two would wait for the next event.
            now = loop.time()
            for lane in self._lanes.start(self.paused, now):
                attempt = asyncio.create_task(self._attempt(lane), name=f"webhook {lane.webhook}")
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)
            seconds = self._lanes.next_due(self.paused, now)
            seconds = min(seconds, _READ_AGAIN) if self._outdated else seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(None if isinf(seconds) else seconds):
                    await self._wake.wait()

    async def _look(self) -> bool:
        """Find the lanes that have deliveries. False where the history cannot be read."""
        waiting = await self._history.deliveries_waiting()
        for number, (webhook, plugin, newest) in enumerate(waiting or (), 1):
            if webhook in self.webhooks:  # else it was taken out of the file
                self._lanes.found(webhook, plugin, newest)
            if number % _SLICE == 0:
                await asyncio.sleep(0)  # requests are answered in between
        return waiting is not None

    async def _attempt(self, lane: Lane) -> None:
        """Deliver what a page of the lane has, until one fails."""
        loop = asyncio.get_running_loop()
        try:
            if not lane.page:
                known = lane.newest
                page = await self._history.deliveries_pending(lane.webhook, lane.plugin, after=lane.after, limit=_PAGE)
                if page is None:
                    lane.due = loop.time() + _READ_AGAIN
                    return
                if not page:  # they were pruned
                    lane.after = known
                lane.page = page
            while lane.page and lane.webhook not in self.paused:
                delivery = lane.page[0]
                began = datetime.now(UTC)
                answer = await self._send(self.webhooks[lane.webhook], delivery.message_id, delivery.body)
                if not self._fold(lane, delivery, answer, began):
                    return
        except Exception:  # noqa: BLE001 - the lane waits, and no other is concerned
            _log.exception("a defect in the orchestrator: webhook %s, deliveries of %s", lane.webhook, lane.plugin)
            lane.due = loop.time() + self._policy.longest_pause
        finally:
            self._lanes.ended(lane)
            self._wake.set()

    def _fold(self, lane: Lane, delivery: DeliveryRecord, answer: Answer, began: datetime) -> bool:
        """Note what has become of the lane's first delivery. True where the next may follow at once."""
        age = (datetime.now(UTC) - delivery.created_at).total_seconds()
        verdict = judge(answer, age, self._policy)
        attempts = delivery.attempts + 1
        self._history.delivery_attempted(
            DeliveryWrite(
                delivery.delivery_id, _STATES[verdict], attempts, began, status=answer.status, error=answer.problem
            )
        )
        if verdict in (AttemptVerdict.DELIVERED, AttemptVerdict.GIVE_UP):
            lane.after = delivery.id
            del lane.page[0]
        else:
            lane.page = [replace(delivery, attempts=attempts)]
        if verdict is AttemptVerdict.DELIVERED:
            if lane.failures:
                _log.info("webhook %s: deliveries of %s succeed again", lane.webhook, lane.plugin)
            lane.failures = 0
            return True
        self._fail(lane, delivery, verdict, answer)
        return False

    def _fail(self, lane: Lane, delivery: DeliveryRecord, verdict: AttemptVerdict, answer: Answer) -> None:
        if verdict is AttemptVerdict.GONE:
            self.paused[lane.webhook] = (
                "Its receiver answered 410: it wants no more. Correct the address and restart the orchestrator, or run "
                f"`orchestrator hooks test {lane.webhook}` once it takes messages again."
            )
            _log.warning("webhook %s rests: %s", lane.webhook, self.paused[lane.webhook])
        elif verdict is AttemptVerdict.GIVE_UP:
            _log.error("webhook %s: delivery %s is given up: %s", lane.webhook, delivery.delivery_id, answer.problem)
        elif not lane.failures:
            _log.warning("webhook %s: a delivery of %s failed: %s", lane.webhook, lane.plugin, answer.problem)
        lane.failures += 1
        seconds = pause(lane.failures, self._chance(), answer.retry_after, self._policy)
        lane.due = asyncio.get_running_loop().time() + seconds
