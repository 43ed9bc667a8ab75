"""Updates of a plugin that is called without pause, with real containers: good candidates, bad ones, kills."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable
from support.waiting import PATIENCE

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

FIXTURES = TESTS / "fixtures"
PLUGINS = FIXTURES / "plugins"
CASES = [
    case
    for case in yaml.safe_load((FIXTURES / "expectations.yaml").read_text())["plugins"]
    if case["state"] in ("FAILED", "UNAVAILABLE")
]
FEW = {"import-error", "model-missing", "validate-raises", "eats-memory", "segfaults", "deadlocks"}
"""One of each kind; `--all-candidates` takes all fault fixtures."""
STRATEGIES = ("overlap", "replace")
STEPS = ("PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED")
INTERVAL = 0.02
"""Seconds between calls."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins") / "victim"


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[LiveOrchestrator]:
    write(folder, "echo", version="1.0.0")
    with live_orchestrator([folder.parent]) as live:
        live.wait_ready(300)
        yield live


def write(folder: Path, fixture: str, *, calls: object = None, **manifest: Any) -> None:
    """The plugin in this folder has this fixture's code and manifest now."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PLUGINS / fixture, folder)
    fields = {**yaml.safe_load((folder / "plugin.yaml").read_text()), "name": folder.name, **manifest}
    (folder / "plugin.yaml").write_text(yaml.safe_dump(fields))
    if calls is not None:
        (folder / "samples").mkdir()
        (folder / "samples" / "calls.yaml").write_text(yaml.safe_dump(calls))


def good(folder: Path, number: int) -> None:
    calls = [{"tool": "echo", "arguments": {"text": "a"}, "expect": {"contains": "a"}}]
    write(folder, "echo", calls=calls, version=f"2.0.{number}", update={"observe": "100ms"})


def update(live: LiveOrchestrator, action: str = "update", **options: Any) -> dict[str, Any]:
    answer = live.client.post(f"/v1/plugins/victim/{action}", params={"wait": 120}, timeout=150, **options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


class Callers:
    """Calls the plugin every `INTERVAL`, each call in its time whatever became of those before it."""

    def __init__(self, live: LiveOrchestrator) -> None:
        self.made = 0
        self.lost: list[str] = []
        self.not_running: list[str] = []
        self._live = live
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]
        self._threads.append(threading.Thread(target=self._watch))

    def _call(self) -> None:
        with httpx.Client(base_url=self._live.client.base_url, timeout=60, trust_env=False) as client:
            while not self._ends.wait(INTERVAL * 2):
                answer = client.post("/v1/plugins/victim/tools/echo/run", json={"text": "hello"})
                self.made += 1
                if answer.status_code != 200:
                    self.lost.append(answer.text)

    def _watch(self) -> None:
        while not self._ends.wait(0.1):
            health = self._live.health("victim")
            if health["state"] not in {"INITIALIZED", "RUNNING"}:
                self.not_running.append(f"{health['state']} {health['reason']}")

    @contextmanager
    def calling(self) -> Iterator["Callers"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            for thread in self._threads:
                thread.join()


def test_updates_lose_no_call(live: LiveOrchestrator, folder: Path, reliability: ReliabilityTable) -> None:
    """Side by side, then each in the place of the other; a revert; nothing but one container is left."""
    steps = []
    with Callers(live).calling() as callers:
        for number in range(3):
            good(folder, number)
            steps.append(update(live, json={"strategy": "overlap"})["step"])
        assert callers.not_running == []
        good(folder, 3)
        steps.append(update(live, json={"strategy": "replace"})["step"])
        reverted = update(live, "revert")
    assert steps == ["SETTLED"] * 4
    assert (reverted["step"], reverted["to_release"]["version"]) == ("SETTLED", "2.0.2")
    assert callers.made > 50
    reliability.count(
        "updates under calls without pause: answered", right=callers.made - len(callers.lost), of=callers.made
    )
    assert callers.lost == []
    assert live.health("victim")["version"] == "2.0.2"
    assert len(live.containers()) == 1


def test_no_bad_candidate_costs_a_call(
    live: LiveOrchestrator, folder: Path, reliability: ReliabilityTable, request: pytest.FixtureRequest
) -> None:
    """Rejected by the code that the fixture has as a plugin; the plugin serves on, and no container is left."""
    cases = [case for case in CASES if request.config.getoption("--all-candidates") or case["plugin"] in FEW]
    before = live.health("victim")["generation"]
    wrong = []
    with Callers(live).calling() as callers:
        for case in cases:
            call = case["call"] or {"tool": "run", "arguments": {}}
            # Twice: some are broken by a call that was answered.
            write(folder, case["plugin"], calls=[deepcopy(call), deepcopy(call)])
            found = update(live, json={"strategy": "overlap"})
            codes = case["reason_code"] if isinstance(case["reason_code"], list) else [case["reason_code"]]
            if found["step"] != "REJECTED" or found["reason_code"] not in codes:
                wrong.append((case["plugin"], found["step"], found["reason_code"], found["reason"]))
    assert wrong == []
    reliability.count(
        "bad candidates: the plugin's own calls answered", right=callers.made - len(callers.lost), of=callers.made
    )
    assert (callers.lost, callers.not_running) == ([], [])
    assert live.health("victim")["generation"] == before
    assert len(live.containers()) == 1


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Strategy → what comes of a kill at each step. Each strategy has an orchestrator and a plugin of its own, and both
    are waited for at the same time.
    """

    def tried(strategy: str) -> None:
        folder = tmp_path_factory.mktemp("plugins") / f"victim-{strategy}"
        write(folder, "echo", version="1.0.0")
        with live_orchestrator([folder.parent]) as live:
            live.wait_ready(300)
            for number, step in enumerate(STEPS):
                _kill_at(step, number, live, folder, strategy)

    with ThreadPoolExecutor(len(STRATEGIES)) as pool:
        yield {strategy: pool.submit(tried, strategy) for strategy in STRATEGIES}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_at_every_step_leaves_one_release_that_serves(
    kills: dict[str, Future[None]], reliability: ReliabilityTable, strategy: str
) -> None:
    """SIGKILL of the orchestrator when the step is on file: no second container, and the record says which serves."""
    kills[strategy].result()
    steps = len(STEPS)
    reliability.count(f"kill -9 at a step of an update ({strategy}): one release serves", right=steps, of=steps)


def _kill_at(step: str, number: int, live: LiveOrchestrator, folder: Path, strategy: str) -> None:
    name = folder.name
    good(folder, number)
    before = live.health(name)["version"]
    answer = live.client.post(f"/v1/plugins/{name}/update", json={"strategy": strategy})
    assert answer.status_code == 202, answer.text
    _until_step(live, name, step)
    live.kill()
    live.start()
    live.wait_until_serving()
    live.wait_ready(120)
    found = _settled(live, name)
    assert found["id"] == answer.json()["id"]
    health = live.wait_for(name, "INITIALIZED", "RUNNING")
    serves = found["to_release"]["version"] if found["step"] == "SETTLED" else before
    assert health["version"] == serves, (step, found, health["instances"])
    assert live.run(name, "echo", {"text": "a"}).status_code == 200
    _one_container(live)


def _until_step(live: LiveOrchestrator, name: str, step: str) -> None:
    """Or a later one: a step may take less than a look."""
    end, reached = time.monotonic() + 60 * PATIENCE, STEPS[STEPS.index(step) :]
    while (found := live.client.get(f"/v1/plugins/{name}/updates").json()[0])["step"] not in reached:
        assert time.monotonic() < end, f"{step} was not reached: {found}"
        time.sleep(0.002)


def _settled(live: LiveOrchestrator, name: str) -> dict[str, Any]:
    end = time.monotonic() + 60 * PATIENCE
    while not (found := live.client.get(f"/v1/plugins/{name}/updates").json()[0])["ended"]:
        assert time.monotonic() < end, f"the update does not end: {found}"
        time.sleep(0.05)
    return dict(found)


def _one_container(live: LiveOrchestrator) -> None:
    end = time.monotonic() + 30 * PATIENCE
    while len(found := live.containers()) != 1:
        assert time.monotonic() < end, f"containers left behind: {[each.name for each in found]}"
        time.sleep(0.1)
