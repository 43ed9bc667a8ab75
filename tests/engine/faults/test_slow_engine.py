"""An engine under load, whose answers come late: each end has its own cause, whatever became of the stop."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from engine.faults.conftest import FIXTURES, nothing_left_but
from support.checkout import TESTS
from support.engine_proxy import EngineProxy, EngineRequest
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Docker Engine of its own needs root"),
]

ENDS = (
    "deadlocks",
    "tool-raises",
    "sys-exit",
    "returns-no-json",
    "segfaults",
    "os-exit",
    "eats-memory",
    "child-eats-memory",
    "hangs",
    "hangs-ignoring-sigterm",
    "holds-gil",
)
CASES = {
    case["plugin"]: case for case in yaml.safe_load((TESTS / "fixtures" / "expectations.yaml").read_text())["plugins"]
}


def is_slow(request: EngineRequest) -> bool:
    return request.path.endswith(("/stop", "/kill")) or (request.method == "GET" and request.path.endswith("/json"))


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveOrchestrator, EngineProxy]]:
    """An orchestrator behind a proxy of the machine's main engine, which has the fixtures' images."""
    plugins = tmp_path_factory.mktemp("plugins")
    for name in ENDS:
        (plugins / name).symlink_to(FIXTURES / name)
    folder = Path("/tmp") / f"slow-{os.getpid()}"
    folder.mkdir()
    engine = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    with (
        EngineProxy(folder / "p", engine) as proxy,
        live_orchestrator([plugins], variables=proxy.environment, stop_grace="500ms") as live,
    ):
        live.wait_ready(300)
        yield live, proxy
        proxy.delay = lambda _: 0.0
    shutil.rmtree(folder)


@pytest.mark.parametrize("seconds", [7.0, 15.0])
def test_each_end_has_its_own_cause(busy: tuple[LiveOrchestrator, EngineProxy], seconds: float) -> None:
    """Stop, kill and looks are answered so late; the reason code is never another one, and nothing is left."""
    live, proxy = busy
    ended = [name for name in ENDS if live.health(name)["state"] in ("FAILED", "UNAVAILABLE")]
    calls = [CASES[name]["call"] for name in ENDS]
    with ThreadPoolExecutor(len(ENDS)) as pool:
        list(pool.map(live.restart, ended))
        proxy.delay = lambda request: seconds if is_slow(request) else 0.0
        list(pool.map(lambda name, call: live.run(name, call["tool"], call["arguments"]), ENDS, calls))
    for name in ENDS:
        live.wait_for(name, "FAILED", seconds=60)
    nothing_left_but(live, 0, seconds=120)
    proxy.delay = lambda _: 0.0
    for name in ENDS:
        health, expected = live.health(name), CASES[name]["reason_code"]
        assert health["reason_code"] in (expected if isinstance(expected, list) else [expected]), health
        told = [event["reason_code"] for event in live.client.get(f"/v1/plugins/{name}/events").json()]
        assert "KILL_FAILED" not in told, (name, told)
