"""SIGKILL of the orchestrator at every step of a change to a plugin's instances: the next process leaves nothing
behind, and serves as many as are wanted from one release.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
import yaml
from engine.faults.conftest import ECHO, nothing_left_but
from simulated_nvidia.dockerd import OwnDockerd
from support.engine_proxy import EngineProxy, EngineRequest
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable
from support.waiting import PATIENCE

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
    pytest.mark.timeout(1800),
]

BENCHES = 2
NAME = "ada"
CONTENT_LABEL = "plugin-orchestrator.content"


@dataclass(frozen=True)
class AtRequest:
    """It dies at the `number`th request of this kind: before the engine has it, after the answer, or 0.1 s later."""

    method: str
    path_ends: str
    when: str = "before"
    number: int = 1

    def matches(self, request: EngineRequest) -> bool:
        path = request.path.partition("?")[0]
        return request.method == self.method and path.endswith(tuple(self.path_ends.split("|")))


@dataclass(frozen=True)
class OnFile:
    """It dies as soon as the plugin's file of releases has come so far: each step is there before it takes effect.
    `reached` gets the file as it was before the change, and as it is.
    """

    reached: Callable[[dict[str, Any], dict[str, Any]], bool]


@dataclass(frozen=True)
class Row:
    """`before`: commands that bring about what the change begins from; `change`: the command that is cut short, as
    (path below the plugin's, body).
    """

    before: tuple[tuple[str, Any], ...]
    change: tuple[str, Any]
    dies: AtRequest | OnFile
    wanted: int
    """Instances afterwards, whatever came of it."""
    may_be: str = ""
    """The reason code of what may have no instance then."""
    edits: bool = False
    """The plugin's folder has another version before the change."""


def _step(name: str) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    """A new update has come to this step, or further: it may not stay there for long."""

    def reached(before: dict[str, Any], file: dict[str, Any]) -> bool:
        return file["update"]["id"] != (before.get("update") or {}).get("id") and name in file["update"]["times"]

    return reached


CREATE, START = ("POST", "/containers/create"), ("POST", "/start")
STOP, REMOVE = ("POST", "/stop|/kill"), ("DELETE", "")
TWO, FOUR = ("scale", {"replicas": 2}), ("scale", {"replicas": 4})
RUN = ("tools/echo/run", {"text": "on"})

ROWS: dict[str, Row] = {
    "scale up, its number on file": Row((TWO,), FOUR, OnFile(lambda _, file: file.get("replicas") == 4), 4),
    "scale down, its number on file": Row((FOUR,), TWO, OnFile(lambda _, file: file.get("replicas") == 2), 2),
    **{
        f"scale up, {when} {what} {number}": Row((TWO,), FOUR, AtRequest(*request, when, number), 4)
        for what, request in (("create", CREATE), ("start", START))
        for when, number in (("before", 1), ("after", 1), ("before", 2), ("after", 2))
    },
    "scale up, soon after start 1": Row((TWO,), FOUR, AtRequest(*START, "soon"), 4),
    **{
        f"scale down, {when} {what} {number}": Row((FOUR,), TWO, AtRequest(*request, when, number), 2)
        for what, request in (("stop", STOP), ("removal", REMOVE))
        for when, number in (("before", 1), ("after", 1), ("after", 2))
    },
    **{
        f"park, {when} {what} {number}": Row((TWO,), ("park", None), AtRequest(*request, when, number), 2, "PARKED")
        for what, request in (("stop", STOP), ("removal", REMOVE))
        for when, number in (("before", 1), ("after", 1), ("after", 2))
    },
    **{
        f"wake, {when} {what} 1": Row((TWO, ("park", None)), RUN, AtRequest(*request, when), 2, "PARKED")
        for what, request in (("create", CREATE), ("start", START))
        for when in ("before", "after")
    },
    "stop, on file": Row((TWO,), ("stop", None), OnFile(lambda _, file: file.get("held") == "stopped"), 2, "STOPPED"),
    **{
        f"stop, {when} {what} {number}": Row((TWO,), ("stop", None), AtRequest(*request, when, number), 2, "STOPPED")
        for what, request in (("stop", STOP), ("removal", REMOVE))
        for when, number in (("before", 1), ("after", 1), ("after", 2))
    },
    **{
        f"update, {step} on file": Row((TWO,), ("update", None), OnFile(_step(step)), 2, edits=True)
        for step in ("PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED")
    },
}
"""What is cut short, and where → how."""


@dataclass(frozen=True)
class Bench:
    """An orchestrator of its own behind a proxy of its own; it has one plugin."""

    live: LiveOrchestrator
    proxy: EngineProxy


@contextmanager
def _bench(dockerd: OwnDockerd, name: str, echo_image: str, folder: Path) -> Iterator[Bench]:
    (folder / NAME).mkdir()
    manifest = yaml.safe_load((ECHO / "plugin.yaml").read_text())
    (folder / NAME / "plugin.yaml").write_text(yaml.safe_dump(manifest | {"name": NAME, "image": echo_image}))
    with (
        EngineProxy(dockerd.folder / name, dockerd.socket) as proxy,
        live_orchestrator([folder], variables=proxy.environment, stop_grace="500ms") as live,
    ):
        live.wait_ready(60)
        yield Bench(live, proxy)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    on_own_dockerd: OwnDockerd,
    echo_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[None]]]:
    """Row → what comes of it. Most of a row is a wait for containers: `BENCHES` rows are tried at a time."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.getparent(pytest.Module) is request.node
    ]
    with ExitStack() as stack, ThreadPoolExecutor(BENCHES) as pool:
        free: SimpleQueue[Bench] = SimpleQueue()
        for number in range(BENCHES):
            folder = tmp_path_factory.mktemp("one")
            free.put(stack.enter_context(_bench(on_own_dockerd, f"p{number}", echo_image, folder)))

        def tried(row: Row) -> None:
            bench = free.get()
            try:
                _try(row, bench.live, bench.proxy)
            finally:
                free.put(bench)

        try:
            yield {name: pool.submit(tried, ROWS[name]) for name in names}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", ROWS)
def test_sigkill_during_a_change(name: str, outcomes: dict[str, Future[None]], reliability: ReliabilityTable) -> None:
    """Afterwards every container is that of an instance, all are of one release, and there are as many as are wanted,
    or the plugin is parked and its next run starts it.
    """
    outcomes[name].result()
    reliability.count("orchestrator SIGKILLed at a step of scale, park, stop or update: one release", right=1, of=1)


def _try(row: Row, live: LiveOrchestrator, proxy: EngineProxy) -> None:
    for command in (("start", None), *row.before):
        _post(live, *command, wait=60)
    _until_whole(live)
    if row.edits:
        _give_new_version(live)
    _cut_short(live, proxy, row)
    live.start()
    live.wait_until_serving()
    live.wait_ready(60)
    health = _until_whole(live)
    assert health["replicas"]["wanted"] == row.wanted, health
    if health["reason_code"] is not None:
        assert health["reason_code"] == row.may_be
        nothing_left_but(live, 0)
        if row.may_be == "STOPPED":
            _post(live, "start", None, wait=60)
    assert live.run(NAME, "echo", {"text": "on"}).json()["ok"]
    nothing_left_but(live, _until_whole(live)["replicas"]["wanted"])
    # One release serves, also where the orchestrator was killed in the middle of an update.
    assert len({container.labels[CONTENT_LABEL] for container in live.containers()}) == 1


def _cut_short(live: LiveOrchestrator, proxy: EngineProxy, row: Row) -> None:
    """Send the command, and kill the orchestrator where the row says."""
    dies = row.dies
    if isinstance(dies, AtRequest):
        _kill_at(live, proxy, dies)
        watcher = None
    else:
        watcher = threading.Thread(target=_kill_when, args=(live, dies, _on_file(live)))
        watcher.start()
    with suppress(httpx.TransportError):
        _post(live, *row.change)
    try:
        live.process.wait(60 * PATIENCE)
    finally:
        proxy.on_request = proxy.on_response = lambda _: None
        if watcher is not None:
            watcher.join()


def _kill_at(live: LiveOrchestrator, proxy: EngineProxy, dies: AtRequest) -> None:
    left = [dies.number]

    def strike(request: EngineRequest) -> None:
        if dies.matches(request):
            left[0] -= 1
            if left[0] == 0 and dies.when == "soon":
                threading.Timer(0.1, live.process.send_signal, (signal.SIGKILL,)).start()
            elif left[0] == 0:
                live.process.send_signal(signal.SIGKILL)

    if dies.when == "before":
        proxy.on_request = strike
    else:
        proxy.on_response = strike


def _kill_when(live: LiveOrchestrator, dies: OnFile, before: dict[str, Any]) -> None:
    end = time.monotonic() + 60 * PATIENCE
    while time.monotonic() < end:
        with suppress(KeyError, TypeError):
            if dies.reached(before, _on_file(live)):
                break
        time.sleep(0.0005)
    live.process.send_signal(signal.SIGKILL)


def _on_file(live: LiveOrchestrator) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((live.state_dir / "releases" / f"{NAME}.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def _give_new_version(live: LiveOrchestrator) -> None:
    file = Path(live.environment["ORCHESTRATOR_PLUGINS_DIRS"]) / NAME / "plugin.yaml"
    manifest = yaml.safe_load(file.read_text())
    major, minor, patch = map(int, str(manifest["version"]).split("."))
    file.write_text(yaml.safe_dump(manifest | {"version": f"{major}.{minor}.{patch + 1}"}))


def _post(live: LiveOrchestrator, path: str, body: Any, wait: float = 0) -> httpx.Response:
    options = {"json": body} if body is not None else {}
    return live.client.post(f"/v1/plugins/{NAME}/{path}", params={"wait": wait * PATIENCE} if wait else {}, **options)


def _until_whole(live: LiveOrchestrator) -> dict[str, Any]:
    """The plugin's health once as many instances serve as are wanted, and no others are there, or it is parked or
    stopped, with no container left.
    """
    end = time.monotonic() + 60 * PATIENCE
    while True:
        health = live.health(NAME)
        replicas, instances = health["replicas"], health["instances"]
        if health["reason_code"] in ("PARKED", "STOPPED") and not live.containers():
            return health
        if replicas["ready"] == replicas["wanted"] == len(instances):
            assert not health["degraded"]
            return health
        assert time.monotonic() < end, health
        time.sleep(0.05)
