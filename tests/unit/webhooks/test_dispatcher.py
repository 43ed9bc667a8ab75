"""The dispatcher over a real history: thousands of messages, receivers that fail as they like."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.registry.history import DeliveryState, HistoryStore, RunRecord
from orchestrator.webhooks.config import Webhook
from orchestrator.webhooks.dispatcher import WebhookDispatcher
from orchestrator.webhooks.messages import WebhookOutbox
from orchestrator.webhooks.schedule import Answer, Lane, Lanes, Policy

POLICY = Policy(time_limit=1.0, first_pause=0.01, longest_pause=0.05, concurrency=4)
HOOKS = tuple(Webhook(name, f"http://127.0.0.1/{name}", (b"k" * 32,)) for name in ("one", "two", "dead"))
PLUGINS = tuple(f"plugin-{number}" for number in range(6))
RUNS = 900


class Receivers:
    """Each fails a third of the attempts, `dead` all; those of `plugin-0` take their time."""

    def __init__(self) -> None:
        self.chance = random.Random(11)
        self.accepted: dict[tuple[str, str], list[str]] = {}
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.of_lane: Counter[tuple[str, str]] = Counter()
        self.in_lane_at_once = 0

    async def send(self, webhook: Webhook, _message_id: str, body: str) -> Answer:
        data = json.loads(body)["data"]
        lane = webhook.name, data["plugin"]
        self.under_way[webhook.name] += 1
        self.of_lane[lane] += 1
        self.most[webhook.name] = max(self.most[webhook.name], self.under_way[webhook.name])
        self.in_lane_at_once = max(self.in_lane_at_once, self.of_lane[lane])
        try:
            await asyncio.sleep(0.02 if data["plugin"] == "plugin-0" else 0)
        finally:
            self.under_way[webhook.name] -= 1
            self.of_lane[lane] -= 1
        if webhook.name == "dead" or self.chance.random() < 1 / 3:
            return Answer(503)
        self.accepted.setdefault(lane, []).append(data["run_id"])
        return Answer(200)


@pytest.mark.slow
async def test_every_message_once_in_order_within_all_bounds(tmp_path: Path) -> None:
    outbox, receivers = WebhookOutbox(HOOKS), Receivers()
    store = HistoryStore(tmp_path, max_age=timedelta(days=1), max_bytes=64 * 1024**2, outbox=outbox)
    await store.restore()
    dispatcher = WebhookDispatcher(HOOKS, store, outbox, receivers.send, policy=POLICY)
    dispatcher.start()
    sent: dict[str, list[str]] = {name: [] for name in PLUGINS}
    now, longest_page = datetime.now(UTC), 0
    for number in range(RUNS):
        plugin = PLUGINS[number % len(PLUGINS) if number % 50 else 0]
        run = RunRecord(f"run-{number}", plugin, "read", now)
        store.run_finished(replace(run, finished_at=now, outcome="ok"), success=True)
        sent[plugin].append(run.run_id)
        if number % 30 == 0:
            await asyncio.sleep(0.002)
    try:
        async with asyncio.timeout(60):
            while (await store.delivery_counts())["one"].pending or (await store.delivery_counts())["two"].pending:
                longest_page = max(longest_page, *(len(lane.page) for lane in dispatcher._lanes), 0)
                await asyncio.sleep(0.02)
    finally:
        await dispatcher.close()
        counts = await store.delivery_counts()
        await store.close()
    for name in ("one", "two"):
        assert {plugin: receivers.accepted[name, plugin] for plugin in PLUGINS} == sent
        assert (counts[name].delivered, counts[name].failed) == (RUNS, 0)
    assert counts["dead"].pending == RUNS
    assert receivers.in_lane_at_once == 1, "one after the other for each webhook and plugin"
    assert max(receivers.most.values()) <= POLICY.concurrency
    assert longest_page <= 20, "what is read ahead is bounded"


async def test_a_defect_in_one_lane_stops_no_other(tmp_path: Path) -> None:
    outbox = WebhookOutbox(HOOKS[:1])
    store = HistoryStore(tmp_path, max_age=timedelta(days=1), max_bytes=64 * 1024**2, outbox=outbox)
    await store.restore()
    came: list[str] = []

    async def send(_webhook: Webhook, _message_id: str, body: str) -> Answer:
        plugin = json.loads(body)["data"]["plugin"]
        came.append(plugin)
        if plugin == "bad":
            raise ZeroDivisionError
        return Answer(204)

    dispatcher = WebhookDispatcher(HOOKS[:1], store, outbox, send, policy=Policy(longest_pause=30.0))
    dispatcher.start()
    now = datetime.now(UTC)
    for number in range(4):
        run = RunRecord(f"run-{number}", "good" if number % 2 else "bad", "read", now, finished_at=now, outcome="ok")
        store.run_finished(run, success=True)
    async with asyncio.timeout(10):
        while came.count("good") < 2:
            await asyncio.sleep(0.01)
    await dispatcher.close()
    await store.close()
    assert came.count("bad") == 1


async def test_a_lane_that_comes_due_while_others_begin_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else wakes the dispatcher."""
    outbox = WebhookOutbox(HOOKS[:1])
    store = HistoryStore(tmp_path, max_age=timedelta(days=1), max_bytes=64 * 1024**2, outbox=outbox)
    await store.restore()
    answers = [Answer(503), Answer(200)]
    start = Lanes.start

    def slow_start(lanes: Lanes, paused: Container[str], now: float) -> list[Lane]:
        started = start(lanes, paused, now)
        if (seconds := lanes.next_due(paused, now)) < inf:
            time.sleep(seconds + 0.01)
        return started

    monkeypatch.setattr(Lanes, "start", slow_start)

    async def send(_webhook: Webhook, _message_id: str, _body: str) -> Answer:
        return answers.pop(0)

    dispatcher = WebhookDispatcher(HOOKS[:1], store, outbox, send, policy=POLICY)
    dispatcher.start()
    now = datetime.now(UTC)
    run = RunRecord("run-1", "reader", "read", now, finished_at=now, outcome="ok")
    store.run_finished(run, success=True)
    try:
        async with asyncio.timeout(10):
            while answers:
                await asyncio.sleep(0.01)
    finally:
        await dispatcher.close()
        await store.close()


@pytest.mark.slow
async def test_what_is_too_old_is_given_up_and_the_next_follows(tmp_path: Path) -> None:
    """After an outage all that are too old end at their next failure; a younger one waits on."""
    outbox = WebhookOutbox(HOOKS[:1])
    store = HistoryStore(tmp_path, max_age=timedelta(days=1), max_bytes=64 * 1024**2, outbox=outbox)
    await store.restore()
    healthy = False

    async def send(_webhook: Webhook, _message_id: str, _body: str) -> Answer:
        return Answer(200 if healthy else 500)

    policy = Policy(first_pause=0.01, longest_pause=0.02, give_up_after=1.5)
    dispatcher = WebhookDispatcher(HOOKS[:1], store, outbox, send, policy=policy)
    dispatcher.start()
    now = datetime.now(UTC)
    for number in range(3):
        run = RunRecord(f"run-{number}", "reader", "read", now, finished_at=now, outcome="ok")
        store.run_finished(run, success=True)
    async with asyncio.timeout(20):
        while len(await store.deliveries("one", state=DeliveryState.FAILED)) < 3:
            await asyncio.sleep(0.05)
    healthy = True
    run = RunRecord("run-3", "reader", "read", now, finished_at=now, outcome="ok")
    store.run_finished(run, success=True)
    async with asyncio.timeout(20):
        while not (delivered := await store.deliveries("one", state=DeliveryState.DELIVERED)):
            await asyncio.sleep(0.05)
    await dispatcher.close()
    await store.close()
    assert len(delivered) == 1 and delivered[0].status == 200


async def test_what_is_stored_while_the_history_is_read_is_delivered(tmp_path: Path) -> None:
    """Also where nothing is stored after it."""
    outbox = WebhookOutbox(HOOKS[:1])
    store = HistoryStore(tmp_path, max_age=timedelta(days=1), max_bytes=64 * 1024**2, outbox=outbox)
    await store.restore()
    sent: list[str] = []

    async def send(_webhook: Webhook, message_id: str, _body: str) -> Answer:
        sent.append(message_id)
        return Answer(200)

    dispatcher = WebhookDispatcher(HOOKS[:1], store, outbox, send, policy=POLICY)
    read = store.deliveries_waiting

    async def read_before_it_is_stored() -> Any:
        store.deliveries_waiting = read  # type: ignore[method-assign]
        found = await read()
        now = datetime.now(UTC)
        run = RunRecord("run-1", "reader", "read", now, finished_at=now, outcome="ok")
        store.run_finished(run, success=True)
        await store.flush()
        await asyncio.sleep(0.05)  # for the dispatcher to hear of it
        return found

    store.deliveries_waiting = read_before_it_is_stored  # type: ignore[method-assign]
    dispatcher.start()
    try:
        async with asyncio.timeout(5):
            while not sent:
                await asyncio.sleep(0.01)
    finally:
        await dispatcher.close()
        await store.close()
