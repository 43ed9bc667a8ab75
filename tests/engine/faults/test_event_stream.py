"""The engine's event stream cut, or full of nonsense: the orchestrator goes on, and sees the next real event."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine.faults.conftest import ECHOES, Watched, nothing_left_but
from simulated_nvidia.dockerd import OwnDockerd
from support.engine_proxy import EngineProxy
from support.live import LiveOrchestrator, live_orchestrator
from support.mutations import mutated
from support.reliability import ReliabilityTable

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

MESSAGES = 10_000
MAX_DETECTION = 2.0  # seconds: above what an event takes, below what any poll would need


@pytest.fixture(scope="module")
def proxied(on_own_dockerd: OwnDockerd, echoes: Path) -> Iterator[tuple[LiveOrchestrator, EngineProxy]]:
    """An orchestrator whose engine is behind a proxy; the test's own requests go to the engine itself."""
    with ExitStack() as stack:
        proxy = stack.enter_context(EngineProxy(on_own_dockerd.folder / "p", on_own_dockerd.socket))
        live = stack.enter_context(live_orchestrator([echoes], variables=proxy.environment, stop_grace="500ms"))
        live.wait_ready(60)
        yield live, proxy


def _kill_and_see(live: LiveOrchestrator, plugin: str) -> None:
    """Kill a container from outside; the orchestrator must detect it."""
    (container,) = [c for c in live.containers() if c.labels["plugin-orchestrator.plugin"] == plugin]
    container.kill()
    assert live.wait_for(plugin, "FAILED", seconds=MAX_DETECTION)["reason_code"] == "KILLED"
    assert live.restart(plugin)["state"] == "INITIALIZED"


def _real_events(live: LiveOrchestrator) -> list[bytes]:
    """Lines as the engine writes them, about existing containers: those are the likeliest to be believed."""
    names = ("create", "start", "die", "destroy", "oom", "pause", "kill", "health_status: unhealthy")
    lines = []
    for container in live.containers():
        labels = {**container.labels, "name": container.name, "image": "x", "exitCode": "137"}
        for action in names:
            now = time.time()
            event = {"status": action, "id": container.id, "from": "x", "Type": "container", "Action": action}
            event |= {"Actor": {"ID": container.id, "Attributes": labels}, "scope": "local"}
            lines.append(json.dumps(event | {"time": int(now), "timeNano": int(now * 1e9)}).encode())
    return lines


def test_ten_thousand_mutated_messages(
    proxied: tuple[LiveOrchestrator, EngineProxy], watched: Watched, reliability: ReliabilityTable
) -> None:
    """Types changed, fields missing, nested without end, huge, half, binary: no living plugin is reported dead, the
    stream goes on, and the next real event is seen.
    """
    live, proxy = proxied
    random.seed(4)
    originals = _real_events(live)
    with watched(live, ECHOES):
        for _ in range(0, MESSAGES, 100):
            proxy.feed(*(mutated(random.choice(originals)) for _ in range(100)))
            if proxy.event_streams == 0:
                time.sleep(1.5)
        assert proxy.event_streams == 1
        states = {name: live.health(name) for name in ECHOES}
        assert {health["state"] for health in states.values()} == {"INITIALIZED"}, states
        for name in ECHOES:
            assert live.run(name, "echo", {"text": "on"}).json()["ok"] is True
        _kill_and_see(live, ECHOES[0])
    reliability.count("event stream: mutated messages survived", right=MESSAGES, of=MESSAGES)
    nothing_left_but(live, len(ECHOES))


def test_a_stream_that_is_cut_repeatedly(proxied: tuple[LiveOrchestrator, EngineProxy], watched: Watched) -> None:
    """It is reopened; the list that follows finds what happened in the gap."""
    live, proxy = proxied
    with watched(live, ECHOES):
        for name in ECHOES[:3]:
            (container,) = [c for c in live.containers() if c.labels["plugin-orchestrator.plugin"] == name]
            proxy.cut_events()
            container.remove(force=True)
            assert live.wait_for(name, "FAILED", seconds=MAX_DETECTION)["reason_code"] == "KILLED"
            _until_open(proxy)
        for name in ECHOES[:3]:
            assert live.restart(name)["state"] == "INITIALIZED"
        _kill_and_see(live, ECHOES[3])
    nothing_left_but(live, len(ECHOES))


def _until_open(proxy: EngineProxy) -> None:
    end = time.monotonic() + 10
    while proxy.event_streams != 1:
        assert time.monotonic() < end, "the event stream was not reopened"
        time.sleep(0.02)
