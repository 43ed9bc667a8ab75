"""An engine under load, whose answers come late: each end has its own cause, whatever became of the stop."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

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
DELAYS = (7.0, 15.0)
"""Seconds."""
CASES = {
    case["plugin"]: case for case in yaml.safe_load((TESTS / "fixtures" / "expectations.yaml").read_text())["plugins"]
}


def is_slow(request: EngineRequest) -> bool:
    return request.path.endswith(("/stop", "/kill")) or (request.method == "GET" and request.path.endswith("/json"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[float, Future[None]]]:
    """Seconds after which the engine answers → what comes of it. Each has an orchestrator of its own, behind a proxy of
    the machine's main engine, which has the fixtures' images; both are waited for at the same time.
    """
    plugins = tmp_path_factory.mktemp("plugins")
    for name in ENDS:
        (plugins / name).symlink_to(FIXTURES / name)
    engine = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    with ExitStack() as stack, ThreadPoolExecutor(len(DELAYS)) as pool:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="slow-", dir="/tmp")))  # a socket's path is short
        found = {}
        for number, seconds in enumerate(DELAYS):
            proxy = stack.enter_context(EngineProxy(folder / f"p{number}", engine))
            variables = proxy.environment
            live = stack.enter_context(live_orchestrator([plugins], variables=variables, stop_grace="500ms"))
            live.wait_ready(300)
            found[seconds] = pool.submit(_end_all, live, proxy, seconds)
        yield found


@pytest.mark.parametrize("seconds", DELAYS)
def test_each_end_has_its_own_cause(outcomes: dict[float, Future[None]], seconds: float) -> None:
    """Stop, kill and looks are answered so late; the reason code is never another one, and nothing is left."""
    outcomes[seconds].result()


def _end_all(live: LiveOrchestrator, proxy: EngineProxy, seconds: float) -> None:
    calls = [CASES[name]["call"] for name in ENDS]
    try:
        proxy.delay = lambda request: seconds if is_slow(request) else 0.0
        with ThreadPoolExecutor(len(ENDS)) as pool:
            list(pool.map(lambda name, call: live.run(name, call["tool"], call["arguments"]), ENDS, calls))
        for name in ENDS:
            live.wait_for(name, "FAILED", seconds=60)
        nothing_left_but(live, 0, seconds=120)
    finally:
        proxy.delay = lambda _: 0.0
    for name in ENDS:
        health, expected = live.health(name), CASES[name]["reason_code"]
        assert health["reason_code"] in (expected if isinstance(expected, list) else [expected]), health
        told = [event["reason_code"] for event in live.client.get(f"/v1/plugins/{name}/events").json()]
        assert "KILL_FAILED" not in told, (name, told)
