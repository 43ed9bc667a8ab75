"""Fixtures of the fault tests: the health routes are polled during every fault."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml
from simulated_nvidia.dockerd import OwnDockerd, own_dockerd
from support.checkout import TESTS
from support.engine_proxy import EngineProxy
from support.health_prober import health_answers
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable
from support.waiting import PATIENCE

FIXTURES = TESTS / "fixtures" / "plugins"
HEALTH_ROUTES_ANSWER = {"200", "404"}
# Milliseconds, for 999 of 1,000 responses: a single one may be delayed by what no process can see, a page fault or a
# hypervisor's pause.
MAX_LATENCY = 100.0
# Milliseconds, for every response: less than any of the orchestrator's timeouts on the engine, so that an event loop
# that waits for the engine is found.
MAX_LATENCY_OF_ALL = 1000.0

ECHO = FIXTURES / "echo"
ECHOES = ("ada", "ben", "cleo", "dan", "eve")

Watched = Callable[[LiveOrchestrator, Sequence[str]], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def watched(reliability: ReliabilityTable) -> Watched:
    """A context that polls the health routes; each must have answered 200 or 404, and in time."""

    @contextmanager
    def watch(live: LiveOrchestrator, names: Sequence[str]) -> Iterator[None]:
        with health_answers(str(live.client.base_url), live.process.pid, names) as answers:
            yield
        valid = sum(count for status, count in answers.statuses.items() if status in HEALTH_ROUTES_ANSWER)
        reliability.count("health routes under faults: answered 200 or 404", right=valid, of=answers.total)
        reliability.at_most("  slowest answer as a caller saw it", answers.slowest_seen, unit="ms")
        reliability.at_most("  99 of 100 answers within", answers.p99_seen, unit="ms")
        reliability.against(
            "  slowest answer without the wait for a processor", answers.slowest, target=MAX_LATENCY, unit="ms"
        )
        assert answers.p999 <= MAX_LATENCY, answers.late
        assert answers.slowest <= MAX_LATENCY_OF_ALL, answers.late

    return watch


@pytest.fixture(scope="session")
def echo_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of the plugin echo, built by the machine's main engine: a test's own engines cannot build."""
    built = subprocess.run(
        [sys.executable, "-m", "orchestrator", "build", "echo"],
        env=os.environ
        | {"ORCHESTRATOR_PLUGINS_DIRS": str(FIXTURES), "ORCHESTRATOR_STATE_DIR": str(tmp_path_factory.mktemp("state"))}
        | {"COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=True,
    )
    return built.stderr.split()[-1]


@pytest.fixture(scope="session")
def dockerd(echo_image: str) -> Iterator[OwnDockerd]:
    """An engine for tests to freeze, kill and impersonate. Its containers run on without it."""
    with own_dockerd(settings={"live-restore": True}) as dockerd:
        dockerd.load_image(echo_image)
        yield dockerd


@pytest.fixture(scope="module")
def on_own_dockerd(dockerd: OwnDockerd) -> Iterator[OwnDockerd]:
    """The same, as the engine of a module's tests; it is cleared after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", dockerd.environment["DOCKER_HOST"])
        yield dockerd
    dockerd.clear()


@pytest.fixture(scope="session")
def echoes(echo_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five copies of the plugin echo."""
    manifest = yaml.safe_load((ECHO / "plugin.yaml").read_text())
    folder = tmp_path_factory.mktemp("echoes")
    for name in ECHOES:
        (folder / name).mkdir()
        (folder / name / "plugin.yaml").write_text(yaml.safe_dump(manifest | {"name": name, "image": echo_image}))
    return folder


@pytest.fixture(scope="module")
def proxy(on_own_dockerd: OwnDockerd) -> Iterator[EngineProxy]:
    """Between the orchestrator and that engine: sees each request, and can answer it instead of the engine."""
    with EngineProxy(on_own_dockerd.folder / "p", on_own_dockerd.socket) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def live(proxy: EngineProxy, echoes: Path) -> Iterator[LiveOrchestrator]:
    """An orchestrator behind the proxy, for modules without one of their own."""
    with live_orchestrator([echoes], variables=proxy.environment, stop_grace="500ms") as live:
        live.wait_ready(60)
        yield live
        proxy.refuse = lambda _: None


def nothing_left_but(live: LiveOrchestrator, alive: int, seconds: float = 20) -> None:
    """Assert that within `seconds` there are `alive` containers of ours, all running, and as many socket folders."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        states = [container.status for container in live.containers()]
        folders = live.socket_folders()
        if states == ["running"] * alive and len(folders) == alive:
            return
        assert time.monotonic() < end, f"expected {alive} containers and socket folders, found {states} and {folders}"
        time.sleep(0.1)
