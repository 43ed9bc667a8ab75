"""SIGTERM under load, with real containers: a timely exit, health until then, no asynchronous run lost."""

import http.client
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

FIXTURES = TESTS / "fixtures" / "plugins"
DRAIN = 10.0
MAX_LAST_MOMENT = 1.0
"""Seconds for which the port may be closed while the process still exits, on a loaded machine."""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`echo` one run at a time, and `parallel`, four at a time."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, concurrency in (("echo", 1), ("parallel", 4)):
        shutil.copytree(FIXTURES / "echo", folder / name)
        manifest = folder / name / "plugin.yaml"
        text = manifest.read_text().replace("name: echo", f"name: {name}").replace("timeout: 2s", "timeout: 60s")
        manifest.write_text(text.replace("concurrency: 4\n", f"concurrency: {concurrency}\nqueue: 64\n"))
    return folder


@pytest.fixture
def live(plugins: Path) -> Iterator[LiveOrchestrator]:
    with live_orchestrator([plugins], drain=f"{DRAIN:g}s") as live:
        live.stop_plugins = False
        live.wait_ready(600)
        live.stop()
        serve(live)
        yield live


def serve(live: LiveOrchestrator) -> None:
    live.start()
    live.wait_until_serving()
    live.wait_ready(60)


@dataclass
class Prober:
    """Asks for health on connections of its own, and notes what is not answered."""

    live: LiveOrchestrator
    answered: int = 0
    wrong: list[object] = field(default_factory=list)
    refused_since: float | None = None

    def probe(self) -> None:
        for path in ("/healthz", "/v1/plugins", "/v1/plugins/echo/health"):
            connection = http.client.HTTPConnection("127.0.0.1", self.live.client.base_url.port or 0, timeout=30)
            try:
                connection.request("GET", path)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException):
                self.refused_since = self.refused_since or time.monotonic()
                return
            finally:
                connection.close()
            self.answered += 1
            if status != 200 or self.refused_since is not None:
                self.wrong.append((path, status, self.refused_since))


@contextmanager
def probed(live: LiveOrchestrator) -> Iterator[Prober]:
    """Until the process has exited."""
    prober = Prober(live)

    def work() -> None:
        while live.process.poll() is None:
            prober.probe()
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield prober
    finally:
        thread.join(90)


@dataclass
class Callers:
    """Callers that wait, one after the other, until the port is closed."""

    live: LiveOrchestrator
    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[object] = field(default_factory=list)

    def call(self, plugin: str, seconds: float) -> None:
        with httpx.Client(base_url=self.live.client.base_url, timeout=90, trust_env=False) as client:
            while True:
                sent = time.monotonic()
                try:
                    answer = client.post(f"/v1/plugins/{plugin}/tools/sleep/run", json={"seconds": seconds})
                except httpx.TransportError as error:
                    # With the port a connection is closed, perhaps under a request that has just been sent.
                    if time.monotonic() - sent > 1:
                        self.unexpected.append(error)
                    return
                self.statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    if answer.headers.get("Retry-After") != "5":
                        self.unexpected.append(answer.text)
                    time.sleep(0.02)
                elif answer.status_code != 200:
                    self.unexpected.append(answer.text)


def start_run(live: LiveOrchestrator, plugin: str, seconds: float) -> str:
    answer = live.run(plugin, "sleep", {"seconds": seconds}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


def test_stops_under_load(live: LiveOrchestrator, reliability: ReliabilityTable, pytestconfig: pytest.Config) -> None:
    """Callers of both kinds, executing and waiting; the containers stay the same."""
    rounds = pytestconfig.getoption("--sigterms")
    containers = {container.id for container in live.containers()}
    in_time = delivered = started = answered = 0
    slowest = last_moment = 0.0
    for number in range(rounds):
        callers = Callers(live)
        pairs = [("echo", 0.05), ("echo", 0.05), *[("parallel", 0.3)] * 4]
        threads = [threading.Thread(target=callers.call, args=pair) for pair in pairs]
        with probed(live) as prober:
            for thread in threads:
                thread.start()
            runs = [start_run(live, "parallel", 1.5), start_run(live, "echo", 1.0)]
            time.sleep((number % 10) * 0.03)
            runs += [start_run(live, "echo", 0.1), start_run(live, "parallel", 0.1), start_run(live, "echo", 0)]
            asked = time.monotonic()
            live.process.send_signal(signal.SIGTERM)
            assert live.process.wait(90) == 0
            took = time.monotonic() - asked
            gone = time.monotonic()
        for thread in threads:
            thread.join(90)
        in_time += took < DRAIN
        slowest = max(slowest, took)
        last_moment = max(last_moment, gone - (prober.refused_since or gone))
        assert not prober.wrong, prober.wrong
        assert not callers.unexpected, callers.unexpected
        answered += prober.answered
        serve(live)
        for run_id in runs:
            answer = live.client.get(f"/v1/runs/{run_id}/result", params={"wait": 60})
            started += 1
            delivered += answer.status_code == 200 and answer.json()["ok"]
        assert {container.id for container in live.containers()} == containers
    reliability.count("SIGTERM under load: exits within its bound, with 0", right=in_time, of=rounds)
    reliability.count("  asynchronous runs delivered by the next start", right=delivered, of=started)
    reliability.count("  health answered until the exit", right=answered, of=answered)
    reliability.at_most("  slowest exit", slowest, limit=DRAIN, unit="s")
    reliability.at_most("  port closed before the exit", last_moment, limit=MAX_LAST_MOMENT, unit="s")


def test_a_second_sigterm_ends_it_at_once(live: LiveOrchestrator) -> None:
    """Its caller is told; the plugin goes on for the next start."""
    answers: list[httpx.Response] = []
    run = threading.Thread(target=lambda: answers.append(live.run("echo", "sleep", {"seconds": 30})))
    run.start()
    end = time.monotonic() + 30
    while live.health("echo")["in_flight"] == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    live.process.send_signal(signal.SIGTERM)
    while live.client.get("/readyz").json()["status"] != "stopping":
        time.sleep(0.02)
    asked = time.monotonic()
    live.process.send_signal(signal.SIGTERM)
    assert live.process.wait(30) == 0
    assert time.monotonic() - asked < DRAIN / 2
    run.join(30)
    assert (answers[0].status_code, "Retry-After" in answers[0].headers) == (503, False)
    log = live.log.read_text()
    assert "waiting for run" in log
    serve(live)
    assert len(live.containers()) == 2
