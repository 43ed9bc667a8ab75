"""SIGKILL of the orchestrator at every step of a start or stop, and during runs: the next process finds everything."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import pytest
from engine.faults.conftest import ECHOES, nothing_left_but
from simulated_nvidia.dockerd import OwnDockerd
from support.engine_proxy import EngineProxy, EngineRequest
from support.health_prober import main_thread_waits
from support.live import LiveOrchestrator
from support.reliability import ReliabilityTable

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
    pytest.mark.timeout(1800),
]

MAX_ADOPTION = 3.0  # seconds from the start of the process until all plugins accept runs

STEPS: dict[str, tuple[str, Callable[[EngineRequest], bool]]] = {
    "before image inspection": ("request", lambda request: request.path.startswith("/images/")),
    "before create": ("request", lambda request: request.path == "/containers/create"),
    "after create": ("response", lambda request: request.path == "/containers/create"),
    "before start": ("request", lambda request: request.path.endswith("/start")),
    "after start": ("response", lambda request: request.path.endswith("/start")),
    "before ready": ("soon", lambda request: request.path.endswith("/start")),
    "before stop": ("request", lambda request: request.path.endswith(("/stop", "/kill"))),
    "after stop": ("response", lambda request: request.path.endswith(("/stop", "/kill"))),
    "before removal": ("request", lambda request: request.method == "DELETE"),
    "after removal": ("response", lambda request: request.method == "DELETE"),
}
"""Step → at which point of which request to the engine the orchestrator dies; `soon`: 0.1 s after the response."""


@pytest.fixture(scope="module")
def strangers(on_own_dockerd: OwnDockerd, echo_image: str) -> tuple[str, str]:
    """Another deployment's containers: one that runs, one that was only created."""
    sleep = (
        "--label",
        "plugin-orchestrator.deployment=another",
        "--network=none",
        "--entrypoint=sleep",
        echo_image,
        "9999",
    )
    return on_own_dockerd.docker("run", "--detach", *sleep).strip(), on_own_dockerd.docker("create", *sleep).strip()


def _states(dockerd: OwnDockerd, containers: tuple[str, ...]) -> list[str]:
    return dockerd.docker("inspect", "--format", "{{.State.Status}} {{.State.StartedAt}}", *containers).splitlines()


def _kill_at(live: LiveOrchestrator, proxy: EngineProxy, step: str, number: int) -> None:
    """Kill the orchestrator at the `number`th request of this kind from now on."""
    when, matches = STEPS[step]
    left = [number]

    def strike(request: EngineRequest) -> None:
        if matches(request):
            left[0] -= 1
            if left[0] == 0 and when == "soon":
                threading.Timer(0.1, live.process.send_signal, (signal.SIGKILL,)).start()
            elif left[0] == 0:
                live.process.send_signal(signal.SIGKILL)

    if when == "request":
        proxy.on_request = strike
    else:
        proxy.on_response = strike


def _restart(live: LiveOrchestrator, plugin: str) -> None:
    with suppress(httpx.TransportError):
        live.client.post(f"/v1/plugins/{plugin}/restart")


@pytest.mark.parametrize("step", STEPS)
def test_sigkill_at_a_step_of_a_restart_leaves_nothing_behind(
    step: str,
    live: LiveOrchestrator,
    proxy: EngineProxy,
    on_own_dockerd: OwnDockerd,
    strangers: tuple[str, str],
    reliability: ReliabilityTable,
) -> None:
    """After the next start every plugin works, with one container and one socket folder, none `created`; containers of
    other deployments are untouched.
    """
    others = _states(on_own_dockerd, strangers)
    _kill_at(live, proxy, step, 3)
    with ThreadPoolExecutor(len(ECHOES)) as pool:
        list(pool.map(lambda name: _restart(live, name), ECHOES))
    live.process.wait(60)
    proxy.on_request = proxy.on_response = lambda _: None
    live.start()
    live.wait_until_serving()
    live.wait_ready(30)
    assert {live.health(name)["state"] for name in ECHOES} <= {"INITIALIZED", "RUNNING"}
    nothing_left_but(live, len(ECHOES))
    assert all(live.run(name, "echo", {"text": "on"}).json()["ok"] for name in ECHOES)
    assert _states(on_own_dockerd, strangers) == others
    reliability.count("orchestrator SIGKILLed at a step of a start or stop: nothing left behind", right=1, of=1)


@dataclass
class Caller:
    """Calls one plugin repeatedly and counts the responses."""

    live: LiveOrchestrator
    plugin: str
    answered: int = 0
    aborted: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def call(self) -> None:
        with httpx.Client(base_url=self.live.client.base_url, timeout=30, trust_env=False) as client:
            while not self.over.is_set():
                try:
                    answer = client.post(f"/v1/plugins/{self.plugin}/tools/sleep/run", json={"seconds": 0.02})
                except httpx.ConnectError:
                    time.sleep(0.1)  # it was never sent
                except httpx.TransportError:
                    self.aborted += 1
                else:
                    assert answer.status_code == 200, answer.text
                    self.answered += 1


def test_repeated_sigkill_with_busy_plugins(
    live: LiveOrchestrator,
    proxy: EngineProxy,
    reliability: ReliabilityTable,
    pytestconfig: pytest.Config,
) -> None:
    """The same containers, none restarted, are adopted in time; every answered run is counted, and none twice."""
    rounds = pytestconfig.getoption("--sigkills")
    before = {name: live.health(name) for name in ECHOES}
    callers = [Caller(live, name) for name in ECHOES]
    slowest = slowest_seen = 0.0
    with ThreadPoolExecutor(len(callers)) as pool:
        calls = [pool.submit(caller.call) for caller in callers]
        try:
            for number in range(rounds):
                _until_all_are_answered(callers)
                time.sleep((number % 10) * 0.013)
                live.kill()
                started = time.monotonic()
                live.start()
                live.wait_until_serving()
                live.wait_ready(30)
                took = time.monotonic() - started
                slowest_seen = max(slowest_seen, took)
                # Starting is a second of computing: only rounds in which the new process had a processor are timed.
                if main_thread_waits(live.process.pid) < took / 10:
                    slowest = max(slowest, took)
            _until_all_are_answered(callers)
        finally:
            for caller in callers:
                caller.over.set()
        for call in calls:
            call.result(30)
    for caller in callers:
        was, now = before[caller.plugin], live.health(caller.plugin)
        assert (now["container"]["id"], now["generation"]) == (was["container"]["id"], was["generation"])
        counted = now["success_count"] - was["success_count"]
        assert caller.answered <= counted <= caller.answered + caller.aborted, (caller.answered, counted)
    nothing_left_but(live, len(ECHOES))
    reliability.count(
        "kill -9 of the orchestrator with 5 busy plugins: no orphan, counters right", right=rounds, of=rounds
    )
    reliability.at_most("  all adopted, from the start of the process", slowest_seen, unit="s")
    if slowest:  # else the machine was too busy in every round
        reliability.against("  the same, where it was left a processor", slowest, target=MAX_ADOPTION, unit="s")


def _until_all_are_answered(callers: list[Caller]) -> None:
    """Each of them once more."""
    end, were = time.monotonic() + 30, [caller.answered for caller in callers]
    while any(caller.answered == was for caller, was in zip(callers, were, strict=True)):
        assert time.monotonic() < end, "a caller gets no more answers"
        time.sleep(0.005)
