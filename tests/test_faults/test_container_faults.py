"""Containers, sockets and processes that somebody else lays hands on: seen, called what it was, and nothing is left."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live import LiveOrchestrator, live_orchestrator
from test_faults.conftest import ECHOES, Watched, nothing_left_but

pytestmark = pytest.mark.engine

FOUND_WITHIN = 10.0
"""Seconds in which a plugin that is dead or deadlocked is found."""


@pytest.fixture(scope="module")
def live(echoes: Path) -> Iterator[LiveOrchestrator]:
    with live_orchestrator([echoes], stop_grace="500ms") as orchestrator:
        orchestrator.wait_ready(60)
        yield orchestrator


def _container(live: LiveOrchestrator, plugin: str) -> Any:
    (container,) = [c for c in live.containers() if c.labels["plugin-orchestrator.plugin"] == plugin]
    return container


def _processes(live: LiveOrchestrator, plugin: str) -> list[int]:
    """On this host: the container's first process and its worker."""
    return sorted(int(pid) for _, pid, *_ in _container(live, plugin).top()["Processes"])


def _socket(live: LiveOrchestrator, plugin: str, name: str) -> Path:
    (source,) = [m["Source"] for m in _container(live, plugin).attrs["Mounts"] if m["Destination"] == "/run/plugin"]
    return Path(source) / name


FAULTS: dict[str, tuple[Callable[[LiveOrchestrator, str], None], str, str]] = {
    "container killed": (lambda live, plugin: _container(live, plugin).kill(), "KILLED", "SIGKILL"),
    "container stopped": (lambda live, plugin: _container(live, plugin).stop(timeout=5), "KILLED", "SIGTERM"),
    "container removed": (lambda live, plugin: _container(live, plugin).remove(force=True), "KILLED", ""),
    "container paused": (lambda live, plugin: _container(live, plugin).pause(), "UNRESPONSIVE", "paused"),
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
"""What is done to an idle plugin, the reason code that it comes to, and what its reason holds."""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_done_to_an_idle_plugin_is_found_and_named(
    fault: str, live: LiveOrchestrator, watched: Watched
) -> None:
    """Without anybody asking it anything; the others do not notice."""
    do, code, phrase = FAULTS[fault]
    victim, *others = ECHOES
    live.restart(victim)
    with watched(live, ECHOES):
        do(live, victim)
        health = live.wait_for(victim, "FAILED", seconds=FOUND_WITHIN)
        assert (health["reason_code"], phrase in health["reason"]) == (code, True), health["reason"]
        assert all(live.run(name, "echo", {"text": "on"}).json()["ok"] for name in others)
        assert live.restart(victim)["state"] == "INITIALIZED"
    nothing_left_but(live, len(ECHOES))
