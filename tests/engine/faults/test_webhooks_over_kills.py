"""Runs in real containers, the orchestrator killed under them: each end reaches its webhook, in order."""

import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable
from support.webhook_receiver import SECRET, WebhookReceiver

pytestmark = pytest.mark.engine

PLUGINS = ("one", "two")
KILLS = 5
ECHO = TESTS / "fixtures" / "plugins" / "echo"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as server:
        yield server
    assert server.forged == []


def call(live: LiveOrchestrator, plugin: str, stopped: threading.Event) -> None:
    """Synchronous runs, without a pause, whatever becomes of them."""
    with httpx.Client(base_url=live.client.base_url, timeout=30, trust_env=False) as client:
        while not stopped.is_set():
            with suppress(httpx.TransportError):
                client.post(f"/v1/plugins/{plugin}/tools/add/run", json={"a": 1, "b": 2})
            time.sleep(0.01)


def test_every_end_of_a_run_is_delivered(
    tmp_path: Path, receiver: WebhookReceiver, reliability: ReliabilityTable
) -> None:
    for name in PLUGINS:
        shutil.copytree(ECHO, tmp_path / "plugins" / name)
        manifest = tmp_path / "plugins" / name / "plugin.yaml"
        manifest.write_text(manifest.read_text().replace("name: echo", f"name: {name}"))
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "webhooks.yaml").write_text(f"- name: pager\n  url: {receiver.url}\n  secret_file: secret\n")
    chance = random.Random(3)
    receiver.always[None] = lambda: 503 if chance.random() < 0.05 else 204
    with live_orchestrator([tmp_path / "plugins"], webhooks=str(tmp_path / "webhooks.yaml")) as live:
        live.wait_ready(300)
        stopped = threading.Event()
        callers = [threading.Thread(target=call, args=(live, name, stopped)) for name in PLUGINS for _ in range(2)]
        for caller in callers:
            caller.start()
        for _ in range(KILLS):
            time.sleep(0.5 + chance.random())
            live.kill()
            live.start()
            live.wait_until_serving()
            live.wait_ready(60)
        stopped.set()
        for caller in callers:
            caller.join()
        expected = {name: runs(live, name) for name in PLUGINS}
        for name in PLUGINS:
            receiver.wait_for(len(expected[name]), name, seconds=120)
    for name in PLUGINS:
        told = [each.content["data"]["run_id"] for each in receiver.messages(name)]
        reliability.count(
            "webhooks: ends of runs delivered, over SIGKILLs of the orchestrator",
            right=len(set(told) & expected[name]),
            of=len(expected[name]),
        )
        assert len(told) == len(set(told)), "a run ends once"
        finished = [
            (each.content["data"]["finished_at"], each.content["data"]["run_id"])
            for each in receiver.messages(name)
            if each.content["data"]["state"] == "finished"
        ]
        assert len(finished) > 10 * KILLS
        order = [position for position, _ in finished]
        assert order == sorted(order), "in the order of their ends"


def runs(live: LiveOrchestrator, plugin: str) -> set[str]:
    """Ids of all runs of the plugin that have ended."""
    found: set[str] = set()
    before: dict[str, int] = {}
    while page := live.client.get("/v1/runs", params={"plugin": plugin, "limit": 500, **before}).json():
        found |= {run["run_id"] for run in page if run["outcome"] is not None}
        before = {"before": page[-1]["id"]}
    return found
