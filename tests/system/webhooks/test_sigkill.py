"""The orchestrator in a process of its own, killed between an event and its delivery again and again."""

import json
import random
import time
from pathlib import Path

import httpx
import pytest
from support.live import live_orchestrator
from support.webhook_receiver import SECRET, WebhookReceiver

pytestmark = pytest.mark.slow

KILLS = 6


def test_nothing_is_lost_and_the_order_stays(tmp_path: Path) -> None:
    """Plugins fail anew with each start, as their manifests are broken; every failure is delivered, oldest first."""
    for name in ("one", "two"):
        (tmp_path / "plugins" / name).mkdir(parents=True)
        (tmp_path / "plugins" / name / "plugin.yaml").write_text("version: [broken")
    (tmp_path / "secret").write_text(SECRET)
    chance = random.Random(7)
    with WebhookReceiver() as receiver:
        (tmp_path / "webhooks.yaml").write_text(f"- name: pager\n  url: {receiver.url}\n  secret_file: secret\n")
        receiver.always[None] = lambda: 503 if chance.random() < 0.3 else 204
        settings = {"WEBHOOKS": str(tmp_path / "webhooks.yaml")}
        no_engine = {"DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock"}
        with live_orchestrator([tmp_path / "plugins"], engine=False, variables=no_engine, **settings) as live:
            live.wait_until_serving()
            for _ in range(KILLS):
                for _ in range(chance.randrange(1, 6)):
                    for name in ("one", "two"):
                        live.client.post(f"/v1/plugins/{name}/restart").raise_for_status()
                time.sleep(chance.choice((0, 0.01, 0.3, 0.6)))
                live.kill()
                live.start()
                live.wait_until_serving()
            expected = failures(live.client)
            receiver.wait_for(len(expected), seconds=60)
            for name in ("one", "two"):
                told = [each.content["data"]["event_id"] for each in receiver.messages(name)]
                assert told == [event for event, plugin in expected if plugin == name]
        assert receiver.forged == []
        assert len(expected) > 4 * KILLS


def failures(client: httpx.Client) -> list[tuple[int, str]]:
    """Id and plugin of every event by which a plugin became FAILED."""
    events = json.loads(client.get("/v1/events", params={"limit": 1000, "after": 0}).text)
    return [(e["id"], e["plugin"]) for e in events if e["state"] == "FAILED" and e["previous"] != "FAILED"]
