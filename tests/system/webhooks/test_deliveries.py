"""Webhooks over the whole orchestrator, to a real server that fails in every way."""

import asyncio
import time

import httpx
from support.harness import Harness
from support.webhook_receiver import Attempt, WebhookReceiver
from system.webhooks.conftest import Hooked

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import ALL_RIGHTS, Grant


async def received(receiver: WebhookReceiver, count: int, plugin: str | None = None) -> list[Attempt]:
    return await asyncio.to_thread(receiver.wait_for, count, plugin)


def numbered(messages: list[Attempt], run_ids: list[str]) -> list[int]:
    return [run_ids.index(each.content["data"]["run_id"]) for each in messages]


async def ran(harness: Harness, plugin: str, times: int) -> list[str]:
    """Ids of so many runs, in their order."""
    found = []
    for _ in range(times):
        answer = await harness.run(plugin, "read")
        assert answer.status_code == 200, answer.text
        found.append(answer.headers["x-run-id"])
    return found


async def test_a_run_and_a_failure_are_sent(hooked: Hooked, receiver: WebhookReceiver) -> None:
    """Signed, each with its own id, as JSON without what was sent or given."""
    hooked.hook("pager", receiver.url)
    hooked.add("reader", tools={"read": lambda: "secret text", "fall": lambda: 1 / 0})
    await hooked.open()
    await hooked.settled("reader")
    await hooked.run("reader", "read")
    await hooked.run("reader", "fall")
    first, *rest = await received(receiver, 3)
    assert first.content["type"] == "run.finished" and first.content["data"]["outcome"] == "ok"
    assert {each.content["type"] for each in rest} == {"run.finished", "plugin.failed"}
    failed = next(each for each in rest if each.content["type"] == "plugin.failed").content["data"]
    assert (failed["plugin"], failed["state"], failed["reason_code"]) == ("reader", "FAILED", "TOOL_ERROR")
    assert failed["event_id"] in {event["id"] for event in (await hooked.client.get("/v1/events")).json()}
    assert first.headers["content-type"] == "application/json"
    assert first.headers["user-agent"].startswith("plugin-orchestrator/")
    assert "secret text" not in str(receiver.attempts)


async def test_a_replica_that_ends_degrades_its_plugin(hooked: Hooked, receiver: WebhookReceiver) -> None:
    """And the last one that ends fails it."""
    hooked.hook("pager", receiver.url, "  events: [plugin.failed, plugin.degraded]\n")
    hooked.add("reader", tools={"read": lambda: 1, "fall": lambda: 1 / 0}, replicas=2)
    await hooked.open()
    await hooked.until("reader", lambda health: health["replicas"]["ready"] == 2)
    await hooked.run("reader", "fall")
    (degraded,) = await received(receiver, 1)
    assert degraded.content["type"] == "plugin.degraded"
    assert degraded.content["data"]["plugin_state"] in ("RUNNING", "INITIALIZED")
    await hooked.run("reader", "fall")
    failed = (await received(receiver, 2))[1]
    assert (failed.content["type"], failed.content["data"]["plugin_state"]) == ("plugin.failed", "FAILED")
    await hooked.client.post("/v1/plugins/reader/restart", params={"wait": 10})
    await hooked.client.post("/v1/plugins/reader/scale", json={"replicas": 1})
    await hooked.client.post("/v1/plugins/reader/stop")
    await asyncio.sleep(0.8)
    assert len(receiver.attempts) == 2, "what an operator means is no failure"


async def test_a_receiver_that_fails_gets_it_again_in_order(hooked: Hooked, receiver: WebhookReceiver) -> None:
    """By status, by a hang, by a reset: the next message waits for the one before."""
    hooked.hook("pager", receiver.url)
    hooked.add("reader", tools={"read": lambda: 1})
    await hooked.open()
    await hooked.settled("reader")
    receiver.answers["reader"] = [503, lambda: time.sleep(1.5) or 200, 302, (429, {"Retry-After": "1"}), 204, 500]
    run_ids = await ran(hooked, "reader", 6)
    messages = await received(receiver, 6)
    assert numbered(messages, run_ids) == list(range(6))
    ids = [each.message_id for each in receiver.attempts]
    assert len(set(ids[:5])) == 1, "the same id in every attempt"
    # It said one second, and was heeded: the answers 429 and 204 are the fourth and fifth attempt.
    answered = {each.answered: each.at for each in receiver.attempts[:5]}
    assert answered[204] - answered[429] >= 1.0
    await asyncio.sleep(0.7)  # the last is noted
    last, *_, first = await hooked.deliveries()
    assert (first["state"], first["attempts"], first["status"], first["error"]) == ("delivered", 5, 204, None)
    assert first["body"]["data"]["run_id"] == run_ids[0] and last["body"]["data"]["run_id"] == run_ids[-1]


async def test_one_plugin_in_trouble_holds_up_no_other(hooked: Hooked, receiver: WebhookReceiver) -> None:
    """Nor does one webhook another."""
    with WebhookReceiver() as dead:
        hooked.hook("pager", receiver.url)
        hooked.hook("dead", dead.url)
        dead.always[None] = lambda: time.sleep(1.2) or 200
        receiver.always["bad"] = lambda: time.sleep(1.2) or 500
        for name in ("bad", "good"):
            hooked.add(name, tools={"read": lambda: 1})
        await hooked.open()
        await hooked.settled("bad")
        await hooked.settled("good")
        await ran(hooked, "bad", 5)
        begun = time.monotonic()
        run_ids = await ran(hooked, "good", 40)
        messages = await received(receiver, 40, "good")
        assert numbered(messages, run_ids) == list(range(40))
        assert time.monotonic() - begun < 4.0
        assert receiver.messages("bad") == []
        report = {each["name"]: each for each in (await hooked.client.get("/v1/webhooks")).json()}
        assert report["dead"]["pending"] == 45 and report["pager"]["pending"] >= 5


async def test_a_receiver_that_is_gone_is_left_alone(hooked: Hooked, receiver: WebhookReceiver) -> None:
    """After 410 nothing is sent, until a test succeeds; then all that waited comes."""
    hooked.hook("pager", receiver.url)
    hooked.add("reader", tools={"read": lambda: 1})
    await hooked.open()
    await hooked.settled("reader")
    receiver.answers[None] = [410]
    run_ids = await ran(hooked, "reader", 3)
    await asyncio.to_thread(receiver.wait_for_attempts, 1)
    await asyncio.sleep(1.0)
    assert len(receiver.attempts) == 1
    (report,) = (await hooked.client.get("/v1/webhooks")).json()
    assert "410" in report["paused"] and "orchestrator hooks test pager" in report["paused"]
    tested = (await hooked.client.post("/v1/webhooks/pager/test")).json()
    assert (tested["ok"], tested["status"], tested["error"]) == (True, 204, None)
    messages = [each for each in await received(receiver, 4) if each.content["type"] != "webhook.test"]
    assert numbered(messages, run_ids) == [0, 1, 2]
    assert (await hooked.client.get("/v1/webhooks")).json()[0]["paused"] is None


async def test_a_receiver_that_restarts(hooked: Hooked) -> None:
    """While it is away nothing is lost; then all comes, in order."""
    with WebhookReceiver() as first:
        hooked.hook("pager", first.url)
        hooked.add("reader", tools={"read": lambda: 1})
        await hooked.open()
        await hooked.settled("reader")
        run_ids = await ran(hooked, "reader", 2)
        await received(first, 2)
    run_ids += await ran(hooked, "reader", 5)
    await asyncio.sleep(1.0)
    waiting = (await hooked.deliveries(state="pending"))[-1]
    assert waiting["attempts"] >= 1 and "There was no connection" in waiting["error"]
    with WebhookReceiver(port=first.port) as second:
        messages = await received(second, 5)
        assert numbered(messages, run_ids) == [2, 3, 4, 5, 6]
        assert second.forged == []


async def test_what_waits_outlives_a_restart(hooked: Hooked, receiver: WebhookReceiver) -> None:
    hooked.hook("pager", receiver.url)
    hooked.add("reader", tools={"read": lambda: 1})
    await hooked.open()
    await hooked.settled("reader")
    receiver.always[None] = 503
    run_ids = await ran(hooked, "reader", 4)
    await asyncio.to_thread(receiver.wait_for_attempts, 1)
    await hooked.shut(containers_stay=True)
    receiver.always.clear()
    await hooked.open()
    messages = await received(receiver, 4)
    assert numbered(messages, run_ids) == [0, 1, 2, 3]


async def test_a_delivery_is_repeated(hooked: Hooked, receiver: WebhookReceiver) -> None:
    """By the same message id, so that its receiver may know it."""
    hooked.hook("pager", receiver.url)
    hooked.add("reader", tools={"read": lambda: 1})
    await hooked.open()
    await hooked.settled("reader")
    await ran(hooked, "reader", 1)
    (message,) = await received(receiver, 1)
    async with asyncio.timeout(5):
        while not (done := await hooked.deliveries(state="delivered")):
            await asyncio.sleep(0.05)
    path = "/v1/webhooks/pager/deliveries/{}/repeat"
    answer = await hooked.client.post(path.format(done[0]["delivery_id"]))
    assert answer.status_code == 202 and answer.json()["state"] == "pending", answer.text
    assert answer.json()["delivery_id"] != done[0]["delivery_id"]
    again = (await asyncio.to_thread(receiver.wait_for_attempts, 2))[1]
    assert (again.message_id, again.content) == (message.message_id, message.content)
    receiver.always[None] = 500
    pending = (await hooked.client.post(path.format(done[0]["delivery_id"]))).json()
    refused = await hooked.client.post(path.format(pending["delivery_id"]))
    assert (refused.status_code, refused.json()["error_type"]) == (409, "DeliveryPending")
    missing = await hooked.client.post(path.format("dlv_none"))
    assert (missing.status_code, missing.json()["error_type"]) == (404, "UnknownDelivery")


async def test_an_unknown_webhook_and_a_key_for_some_plugins(hooked: Hooked, receiver: WebhookReceiver) -> None:
    hooked.hook("pager", receiver.url.replace("//", "//user:hidden@") + "?token=hidden")
    hooked.add("reader", tools={"read": lambda: 1})
    store = KeyStore(hooked.settings.state_dir)
    root, scoped = store.add("root", Role.OPERATOR), store.add("some", Grant(ALL_RIGHTS, ("reader",)))
    client = await hooked.open()

    async def asked(path: str, key: str) -> httpx.Response:
        return await client.get(path, headers={"Authorization": f"Bearer {key}"})

    missing = await asked("/v1/webhooks/none/deliveries", root)
    assert missing.status_code == 404 and "GET /v1/webhooks lists all" in missing.json()["error"]
    for path in ("/v1/webhooks", "/v1/webhooks/pager/deliveries", "/v1/webhooks/none/deliveries"):
        answer = await asked(path, scoped)
        assert (answer.status_code, answer.json()["error_type"]) == (403, "KeyForSomePlugins")
    listed = await asked("/v1/webhooks", root)
    assert listed.json()[0]["url"] == receiver.url + "?…"
    assert "hidden" not in listed.text


async def test_without_webhooks_there_are_none(harness: Harness) -> None:
    client = await harness.open()
    assert (await client.get("/v1/webhooks")).json() == []
    assert (await client.get("/v1/webhooks/pager/deliveries")).status_code == 404
