"""Many callers of one plugin over HTTP: each gets the part that its key says, and hears which bound has refused it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from itertools import pairwise
from statistics import mean
from typing import Any

import httpx
import pytest
from support.harness import Harness
from support.server_sent import following

from orchestrator.access.gate import MAX_WRONG_KEYS
from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import Grant, Priority, Rate, Right, Share

RUN = frozenset({Right.RUN})
CALL = "/v1/plugins/reader/tools/read/run"


@asynccontextmanager
async def callers(harness: Harness, shares: dict[str, Share]) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """A client for each, and `root`, once the plugin is ready."""
    store = KeyStore(harness.settings.state_dir)
    texts = {name: store.add(name, Grant(RUN, share=share)) for name, share in shares.items()}
    texts["root"] = store.add("root", Role.OPERATOR)
    base = (await harness.open()).base_url
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=base,
                    headers={"Authorization": f"Bearer {text}"},
                    timeout=None,
                    trust_env=False,
                    verify=False,
                )
            )
            for name, text in texts.items()
        }
        while (await clients["root"].get("/v1/plugins/reader/health")).json()["state"] == "LOADED":
            await asyncio.sleep(0.01)
        yield clients


async def runs(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """All that there were, the oldest first."""
    found: list[dict[str, Any]] = []
    page = (await client.get("/v1/runs", params={"limit": 500})).json()
    while page:
        found += page
        page = (await client.get("/v1/runs", params={"limit": 500, "before": page[-1]["id"]})).json()
    return found[::-1]


@pytest.mark.slow
async def test_twenty_callers_of_three_priorities_get_their_parts(harness: Harness) -> None:
    """Each calls again as soon as it is answered, with three runs at a time. The parts are as configured, and so are
    the waits: the higher the priority, the shorter.
    """
    whole, pause = 1_000, 0.001
    harness.add("reader", tools={"read": lambda: asyncio.sleep(pause)})
    shares = {f"{priority}-{n}": Share(priority) for priority, count in
              ((Priority.HIGH, 4), (Priority.NORMAL, 8), (Priority.LOW, 8)) for n in range(count)}  # fmt: skip
    async with callers(harness, shares) as clients:
        left = whole

        async def call(client: httpx.AsyncClient) -> None:
            nonlocal left
            while left > 0:
                answer = await client.post(CALL, json={})
                assert answer.status_code == 200, answer.text
                left -= 1

        await asyncio.gather(*(call(clients[name]) for name in shares for _ in range(3)))
        found = await runs(clients["root"])
    started = sorted((run for run in found if run["started_at"]), key=lambda run: run["started_at"])
    # Without the first, which came when nobody waited, and the last, for which callers went one after the other.
    started = started[60 : whole - 60]
    counted, weights = Counter(run["caller"] for run in started), sum(share.total_weight for share in shares.values())
    print(f"\n{len(started)} runs of {len(shares)} callers")  # noqa: T201 - the figures
    waits = {}
    for priority in Priority:
        names = [name for name, share in shares.items() if share.priority is priority]
        part = len(started) * priority.weight / weights
        each = [counted[name] for name in names]
        waits[priority] = mean(waited(run) for run in started if run["caller"] in names)
        print(  # noqa: T201
            f"{priority:>7}: {len(names)} callers, runs {min(each)}..{max(each)} each (configured {part:.1f}), "
            f"mean wait {waits[priority] * 1000:.0f} ms"
        )
        assert abs(sum(each) - part * len(names)) <= max(0.1 * part * len(names), 2 * len(names)), counted
    assert all(shorter < longer for shorter, longer in pairwise(waits[priority] for priority in Priority)), waits


def waited(run: dict[str, Any]) -> float:
    return (datetime.fromisoformat(run["started_at"]) - datetime.fromisoformat(run["accepted_at"])).total_seconds()


async def test_a_batch_turns_nobody_else_away(harness: Harness) -> None:
    """It fills its own part of the queue; whoever else calls is next. What is too much for it gets 429, in its name."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait})
    async with callers(harness, {"batch": Share(Priority.LOW), "web": Share()}) as clients:
        batch = [asyncio.create_task(clients["batch"].post(CALL, json={})) for _ in range(17)]
        async with asyncio.timeout(10):
            while (await clients["root"].get("/v1/plugins/reader/health")).json()["queued"] < 16:
                await asyncio.sleep(0.01)
        refused = await clients["batch"].post(CALL, json={})
        assert (refused.status_code, refused.json()["error_type"]) == (429, "QueueFull")
        assert "the key 'batch'" in refused.json()["error"] and int(refused.headers["Retry-After"]) >= 1
        web = asyncio.create_task(clients["web"].post(CALL, json={}))
        async with asyncio.timeout(10):
            while not (waiting := (await clients["web"].get("/v1/runs")).json()):
                await asyncio.sleep(0.01)
        assert [(run["caller"], run["queue_position"]) for run in waiting] == [("web", 1)]
        go_on.set()
        assert {(await task).status_code for task in (*batch, web)} == {200}
        found = await runs(clients["root"])
    order = [run["caller"] for run in sorted(found, key=lambda run: run["started_at"])]
    assert order == ["batch", "web", *["batch"] * 16]


async def test_what_is_more_than_may_execute_waits(harness: Harness) -> None:
    """On all plugins together; and it starts when one of them has ended, on whichever."""
    holding = {"reader": asyncio.Event(), "other": asyncio.Event()}
    for name, go_on in holding.items():
        harness.add(name, tools={"read": go_on.wait}, concurrency=4)
    async with callers(harness, {"ci": Share(concurrency=1)}) as clients:
        first = asyncio.create_task(clients["ci"].post(CALL, json={}))
        async with asyncio.timeout(10):
            while not (await clients["root"].get("/v1/plugins/reader/health")).json()["in_flight"]:
                await asyncio.sleep(0.01)
        second = asyncio.create_task(clients["ci"].post(CALL.replace("reader", "other"), json={}))
        async with asyncio.timeout(10):
            while not (await clients["root"].get("/v1/plugins/other/health")).json()["queued"]:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (await clients["root"].get("/v1/plugins/other/health")).json()["in_flight"] == 0
        holding["reader"].set()
        assert (await first).status_code == 200
        holding["other"].set()
        assert (await second).status_code == 200


async def test_a_rate_is_held_and_its_retry_after_is_true(harness: Harness) -> None:
    """429 before, 200 after; other callers are not affected, and what was refused counts for nothing."""
    harness.add("reader", tools={"read": lambda: 1})
    async with callers(harness, {"ci": Share(rate=Rate(2, 1.0)), "web": Share()}) as clients:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answers = [await clients["ci"].post(CALL, json={}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        refused = await clients["ci"].post(CALL, json={})
        if loop.time() - begun < 1:  # else the machine was too slow to be refused
            assert (refused.status_code, refused.json()["error_type"]) == (429, "RateExceeded")
            assert "2/s" in refused.json()["error"] and refused.headers["Retry-After"] == "1"
            await asyncio.sleep(1)
            assert (await clients["ci"].post(CALL, json={})).status_code == 200
        assert (await clients["web"].post(CALL, json={})).status_code == 200


async def test_every_refusal_names_its_limit(harness: Harness) -> None:
    """And where it is set, with a `Retry-After`: the queue, a key's own bounds, readers of events, wrong keys."""
    go_on = asyncio.Event()
    harness.settings = harness.settings.model_copy(update={"event_readers": 1})
    harness.add("reader", tools={"read": go_on.wait}, queue=1, concurrency=2)
    shares = {"web": Share(), "ci": Share(concurrency=1), "cron": Share(rate=Rate(1, 60.0))}
    async with callers(harness, shares) as clients:
        found: dict[str, httpx.Response] = {}
        held = [asyncio.create_task(clients["ci"].post(CALL, json={})) for _ in range(2)]
        async with asyncio.timeout(10):
            while (await clients["root"].get("/v1/plugins/reader/health")).json()["queued"] < 1:
                await asyncio.sleep(0.01)
        found["concurrency"] = await clients["ci"].post(CALL, json={})
        held += [asyncio.create_task(clients["web"].post(CALL, json={})) for _ in range(2)]
        async with asyncio.timeout(10):
            while (await clients["root"].get("/v1/plugins/reader/health")).json()["queued"] < 2:
                await asyncio.sleep(0.01)
        found["queue"] = await clients["web"].post(CALL, json={})
        held.append(asyncio.create_task(clients["cron"].post(CALL, json={})))
        async with asyncio.timeout(10):
            while (await clients["root"].get("/v1/plugins/reader/health")).json()["queued"] < 3:
                await asyncio.sleep(0.01)
        found["rate"] = await clients["cron"].post(CALL, json={})
        async with following(clients["root"]):
            found["readers"] = await clients["root"].get("/v1/events", headers={"Accept": "text/event-stream"})
        for _ in range(MAX_WRONG_KEYS + 1):
            found["keys"] = await clients["root"].get("/v1/plugins", headers={"Authorization": "Bearer po_wrong"})
        go_on.set()
        await asyncio.gather(*held)
    named = {
        "queue": ("QueueFull", "1 of its runs wait, as many as may for one caller (`queue` in the plugin's manifest)"),
        "concurrency": ("QueueFull", "the key may have 1 executing at once (its --concurrency)"),
        "rate": ("RateExceeded", "The key 'cron' may make 1/min runs (its --rate)"),
        "readers": ("TooManyReaders", "ORCHESTRATOR_EVENT_READERS"),
        "keys": ("TooManyWrongKeys", f"more than {MAX_WRONG_KEYS} within 60 s"),
    }
    for kind, (error_type, phrase) in named.items():
        answer = found[kind]
        assert (answer.status_code, answer.json()["error_type"]) == (429, error_type), answer.text
        assert phrase in answer.json()["error"] and int(answer.headers["Retry-After"]) >= 1


async def test_without_keys_a_full_queue_names_its_limit_too(harness: Harness) -> None:
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait}, queue=1)
    client = await harness.open()
    await harness.settled("reader")
    held = [asyncio.create_task(client.post(CALL, json={})) for _ in range(2)]
    await harness.until("reader", lambda health: health["queued"] == 1)
    refused = await client.post(CALL, json={})
    assert refused.status_code == 429
    assert "1 executing, 1 waiting, as many as may (`queue` in its manifest)" in refused.json()["error"]
    go_on.set()
    await asyncio.gather(*held)
