"""Every kind of end, twenty times each in real containers: the reason code is right twenty times of twenty."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine.faults.conftest import FIXTURES, Watched
from support.live import LiveOrchestrator, live_orchestrator, processes_of
from support.reliability import ReliabilityTable
from support.waiting import PATIENCE

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

TRIALS = 20

Trial = Callable[[LiveOrchestrator, str, int], None]


def call(live: LiveOrchestrator, plugin: str, _: int) -> None:
    live.run(plugin, "run")


def call_with_code(live: LiveOrchestrator, plugin: str, number: int) -> None:
    live.run(plugin, "run", {"code": number % 5 + 1})


def stop_ignoring_sigterm(live: LiveOrchestrator, plugin: str, number: int) -> None:
    """It needs SIGKILL, and its exit code is that of a kill from outside; every other time with a run in flight."""
    run = threading.Thread(target=live.run, args=(plugin, "run"))
    if number % 2:
        run.start()
        _until_in_flight(live, plugin)
    live.client.post(f"/v1/plugins/{plugin}/stop").raise_for_status()
    if number % 2:
        run.join()


def kill_from_outside(live: LiveOrchestrator, plugin: str, number: int) -> None:
    """The container by the engine, its first process or its worker; every fourth time with a run in flight."""
    run = threading.Thread(target=live.run, args=(plugin, "sleep", {"seconds": 1.5}))
    if number % 4 == 3:
        run.start()
        _until_in_flight(live, plugin)
    (container,) = [c for c in live.containers() if c.labels["plugin-orchestrator.plugin"] == plugin]
    if number % 3 == 0:
        container.kill()
    else:
        os.kill(processes_of(container)[number % 3 - 1], signal.SIGKILL)
    if number % 4 == 3:
        run.join()


def _until_in_flight(live: LiveOrchestrator, plugin: str) -> None:
    end = time.monotonic() + 10 * PATIENCE
    while live.health(plugin)["in_flight"] == 0:
        assert time.monotonic() < end, "the run did not start"
        time.sleep(0.01)


CLASSES: dict[str, tuple[str, Trial, str]] = {
    "main process out of memory": ("eats-memory", call, "OUT_OF_MEMORY"),
    "child out of memory, survived": ("child-eats-memory", call, "OUT_OF_MEMORY"),
    "deadline": ("hangs", call, "TIMEOUT"),
    "operator stop": ("hangs-ignoring-sigterm", stop_ignoring_sigterm, "STOPPED"),
    "outside SIGKILL": ("echo", kill_from_outside, "KILLED"),
    "segfault": ("segfaults", call, "CRASHED"),
    "non-zero exit": ("os-exit", call_with_code, "EXITED"),
}
"""Kind of end → plugin, how it is caused, and the only right reason code."""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory, watched: Watched) -> Iterator[dict[str, list[str]]]:
    """Kind of end → the reason codes of its trials. The kinds run concurrently, each on its own plugin."""
    folder = tmp_path_factory.mktemp("plugins")
    plugins = [plugin for plugin, _, _ in CLASSES.values()]
    for plugin in plugins:
        (folder / plugin).symlink_to(FIXTURES / plugin)
    with live_orchestrator([folder], stop_grace="500ms") as live:
        live.wait_ready(300)
        with watched(live, plugins), ThreadPoolExecutor(len(CLASSES)) as pool:
            trials = {name: pool.submit(_trials, live, plugin, trial) for name, (plugin, trial, _) in CLASSES.items()}
        yield {name: found.result() for name, found in trials.items()}


def _trials(live: LiveOrchestrator, plugin: str, trial: Trial) -> list[str]:
    found = []
    for number in range(TRIALS):
        if number:
            live.restart(plugin)
        trial(live, plugin, number)
        health = live.wait_for(plugin, "FAILED", "UNAVAILABLE")
        found.append(health["reason_code"])
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_each_end_has_the_right_reason_code(
    name: str, verdicts: dict[str, list[str]], reliability: ReliabilityTable
) -> None:
    """Never OUT_OF_MEMORY for a kill, never KILLED for a stop."""
    expected = CLASSES[name][2]
    wrong = [verdict for verdict in verdicts[name] if verdict != expected]
    reliability.count(f"verdict {expected} on: {name}", right=TRIALS - len(wrong), of=TRIALS, wrong=wrong)
