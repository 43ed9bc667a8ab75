"""A small call through a front, beside the same straight to its host."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, ratios
from benchmarks.load import Request
from benchmarks.processes import free_port, until_it_listens, watched_process
from benchmarks.rows.calls import BODY, CALLERS, WIDE_MANIFEST

STRAIGHT, THROUGH = "straight to the host", "through a front"
_PATH = "/v1/plugins/wide/tools/echo/run"


def measure(bench: Bench) -> Iterator[Figure]:
    """p50 with one caller, and calls a second with 16."""
    with bench.up(["wide"], **WIDE_MANIFEST) as host, fronted(f"http://127.0.0.1:{host.port}") as front:
        ways = {STRAIGHT: Request.post(host.target, _PATH, BODY), THROUGH: Request.post(front, _PATH, BODY)}
        one, many = bench.in_turn(ways), bench.in_turn(ways, connections=CALLERS)
    times = {name: [load.p50 / 1000 for load in taken] for name, taken in one.items()}
    rates = {name: [load.per_second for load in taken] for name, taken in many.items()}
    target = Target("≤", 1.6)
    yield Figure("small call, p50: through a front over straight", ratios(times[THROUGH], times[STRAIGHT]), "x", target)
    yield Figure("16 callers, calls a second: through over straight", ratios(rates[THROUGH], rates[STRAIGHT]), "x")
    for name, taken in times.items():
        yield Figure(f"  p50, {name}", taken, "ms")
    for name, taken in rates.items():
        yield Figure(f"  calls a second, {name}", taken, "/s")


@contextmanager
def fronted(address: str) -> Iterator[str]:
    """A front's process over this host; yields where it listens."""
    with tempfile.TemporaryDirectory() as home:
        hosts, port = Path(home) / "hosts.yaml", free_port()
        hosts.write_text(f"- {{name: here, address: '{address}'}}\n")
        settings = [f"ORCHESTRATOR_PORT={port}", f"ORCHESTRATOR_STATE_DIR={home}/state"]
        command = ["env", *settings, sys.executable, "-m", "orchestrator", "front", "--hosts", str(hosts)]
        with watched_process(command) as process:
            until_it_listens(port, process)
            yield f"tcp:127.0.0.1:{port}"
