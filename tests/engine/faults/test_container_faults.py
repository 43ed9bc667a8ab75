"""Another program interferes with containers, sockets and processes: detected, reported as what it was, cleaned up."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.faults.conftest import ECHOES, Watched, nothing_left_but
from support.live import LiveOrchestrator, live_orchestrator, pause_container, processes_of

pytestmark = pytest.mark.engine

MAX_DETECTION = 10.0  # seconds until a dead or deadlocked plugin is found


@pytest.fixture(scope="module")
def live(echoes: Path) -> Iterator[LiveOrchestrator]:
    with live_orchestrator([echoes], stop_grace="500ms") as orchestrator:
        orchestrator.wait_ready(60)
        yield orchestrator


def _container(live: LiveOrchestrator, plugin: str) -> Any:
    (container,) = [c for c in live.containers() if c.labels["plugin-orchestrator.plugin"] == plugin]
    return container


def _processes(live: LiveOrchestrator, plugin: str) -> list[int]:
    """The host's process ids of the container's first process and its worker."""
    return processes_of(_container(live, plugin))


def _socket(live: LiveOrchestrator, plugin: str, name: str) -> Path:
    (source,) = [m["Source"] for m in _container(live, plugin).attrs["Mounts"] if m["Destination"] == "/run/plugin"]
    return Path(source) / name


FAULTS: dict[str, tuple[Callable[[LiveOrchestrator, str], None], str, str]] = {
    "container killed": (lambda live, plugin: _container(live, plugin).kill(), "KILLED", "SIGKILL"),
    "container stopped": (lambda live, plugin: _container(live, plugin).stop(timeout=5), "KILLED", "SIGTERM"),
    "container removed": (lambda live, plugin: _container(live, plugin).remove(force=True), "KILLED", ""),
    "container paused": (lambda live, plugin: pause_container(_container(live, plugin)), "UNRESPONSIVE", "paused"),
    "first process killed": (lambda live, plugin: os.kill(_processes(live, plugin)[0], signal.SIGKILL), "KILLED", ""),
    "first process frozen": (
        lambda live, plugin: os.kill(_processes(live, plugin)[0], signal.SIGSTOP),
        "UNRESPONSIVE",
        "control socket",
    ),
    "worker killed": (lambda live, plugin: os.kill(_processes(live, plugin)[1], signal.SIGKILL), "KILLED", "worker"),
    "worker frozen": (
        lambda live, plugin: os.kill(_processes(live, plugin)[1], signal.SIGSTOP),
        "UNRESPONSIVE",
        "deadlocked",
    ),
    "control socket deleted": (
        lambda live, plugin: _socket(live, plugin, "control.sock").unlink(),
        "UNRESPONSIVE",
        "control socket",
    ),
}
"""Name → what is done to an idle plugin, the expected reason code, a phrase of the reason."""


@pytest.mark.parametrize("fault", FAULTS)
def test_interference_with_an_idle_plugin_is_detected_and_named(
    fault: str, live: LiveOrchestrator, watched: Watched
) -> None:
    """Without any request to it; other plugins are not affected."""
    interfere, code, phrase = FAULTS[fault]
    victim, *others = ECHOES
    live.restart(victim)
    with watched(live, ECHOES):
        interfere(live, victim)
        health = live.wait_for(victim, "FAILED", seconds=MAX_DETECTION)
        assert (health["reason_code"], phrase in health["reason"]) == (code, True), health["reason"]
        assert all(live.run(name, "echo", {"text": "on"}).json()["ok"] for name in others)
        assert live.restart(victim)["state"] == "INITIALIZED"
    nothing_left_but(live, len(ECHOES))
