"""An engine that drops limits, as one without the kernel's controllers does: real containers that are not limited."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.faults.conftest import ECHOES
from support.engine_proxy import EngineProxy
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

DISCARDED = "Your kernel does not support {} limit capabilities or the cgroup is not mounted. Limitation discarded."
NAME = ECHOES[0]
FIELDS = {"memory": ("Memory", "MemorySwap"), "pids": ("PidsLimit",)}


def dropping(*names: str, warn: bool) -> Callable[[dict[str, Any]], list[str]]:
    """What an engine does with the limits that its kernel does not know."""

    def rewrite(body: dict[str, Any]) -> list[str]:
        for name in names:
            for field in FIELDS[name]:
                body["HostConfig"].pop(field, None)
        return [DISCARDED.format(name) for name in names] if warn else []

    return rewrite


@pytest.fixture(scope="module")
def one_echo(echoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    (folder / NAME).symlink_to(echoes / NAME)
    return folder


@pytest.fixture(scope="module")
def live(proxy: EngineProxy, one_echo: Path) -> Iterator[LiveOrchestrator]:
    with live_orchestrator([one_echo], variables=proxy.environment, stop_grace="500ms") as live:
        live.wait_ready(60)
        yield live


@pytest.mark.parametrize(
    ("names", "warn"),
    [(("memory", "pids"), True), (("memory",), False), (("pids",), False)],
    ids=["with a warning", "memory, in silence", "pids, in silence"],
)
def test_a_limit_that_is_dropped_is_found(
    live: LiveOrchestrator, proxy: EngineProxy, names: tuple[str, ...], warn: bool
) -> None:
    """By the engine's warning before anything is started, or by the runtime before any code of the plugin."""
    proxy.rewrite_create = dropping(*names, warn=warn)
    health = live.restart(NAME)
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED"), health
    assert all(f"`limits.{name}`" in health["reason"] for name in names)
    assert ("Limitation discarded" in health["reason"]) is warn
    assert not any(check["name"] == "import" for check in health["checks"])
    proxy.rewrite_create = None
    assert live.restart(NAME)["state"] == "INITIALIZED"


def test_cores_above_the_machines_are_named(live: LiveOrchestrator, proxy: EngineProxy) -> None:
    """The engine refuses them."""

    def rewrite(body: dict[str, Any]) -> list[str]:
        body["HostConfig"]["NanoCpus"] = int(4096e9)
        return []

    proxy.rewrite_create = rewrite
    health = live.restart(NAME)
    proxy.rewrite_create = None
    # The plugin itself has no limit of cores: then it is no limit of its own that the engine refuses.
    assert health["reason_code"] == "INIT_ERROR"
    assert "CPUs" in health["reason"]
    assert live.restart(NAME)["state"] == "INITIALIZED"


def test_without_limits_where_a_setting_allows_it(proxy: EngineProxy, one_echo: Path) -> None:
    """Health then has null for them; a next orchestrator that does not allow it replaces the container."""
    proxy.rewrite_create = dropping("memory", "pids", warn=True)
    with live_orchestrator(
        [one_echo], variables=proxy.environment, stop_grace="500ms", allow_unlimited="memory,pids"
    ) as live:
        live.wait_ready(60)
        health = live.health(NAME)
        assert health["state"] == "INITIALIZED", health
        assert (health["limits"]["memory_bytes"], health["limits"]["pids"]) == (None, None)
        (check,) = [check for check in health["checks"] if check["name"] == "limits"]
        assert not check["ok"]
        assert live.run(NAME, "echo", {"text": "on"}).json()["ok"]
        (container,) = live.containers()
        live.kill()
        del live.environment["ORCHESTRATOR_ALLOW_UNLIMITED"]
        live.start()
        live.wait_until_serving()
        live.wait_ready(60)
        health = live.health(NAME)
        assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED")
        assert container.id not in [each.id for each in live.containers()]
    proxy.rewrite_create = None


def test_a_plugin_that_is_held_has_its_limits_in_health(live: LiveOrchestrator) -> None:
    health = live.health(NAME)
    assert health["limits"]["memory_bytes"]
    assert health["limits"]["pids"]
    assert not any(check["name"] == "limits" for check in health["checks"])
