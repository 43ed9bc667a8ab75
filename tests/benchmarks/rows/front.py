"""A front: a small call through it, beside the same straight to its host; and what fifty hosts cost it."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, ratios
from benchmarks.load import Request
from benchmarks.processes import cpu_seconds, free_port, resident, until_it_listens, watched_process
from benchmarks.rows.calls import BODY, CALLERS, WIDE_MANIFEST

STRAIGHT, THROUGH = "straight to the host", "through a front"
HOSTS, PLUGINS, CHANGES = 50, 20, 2
LISTS = 50
_PATH = "/v1/plugins/wide/tools/echo/run"


def measure(bench: Bench) -> Iterator[Figure]:
    """p50 with one caller, and calls a second with 16."""
    with bench.up(["wide"], **WIDE_MANIFEST) as host, fronted(f"http://127.0.0.1:{host.port}") as front:
        ways = {STRAIGHT: Request.post(host.target, _PATH, BODY), THROUGH: Request.post(front.target, _PATH, BODY)}
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


def fifty_hosts(bench: Bench) -> Iterator[Figure]:
    """CPU and memory of a front over 50 simulated hosts of 20 plugins, with two changes a second each; and its list."""
    port = free_port()
    addresses = [f"http://127.0.0.1:{port}/{number}" for number in range(HOSTS)]
    command = [sys.executable, "-m", "benchmarks.fake_hosts", *map(str, (port, PLUGINS, CHANGES))]
    with watched_process(command) as fake:
        until_it_listens(port, fake)
        with fronted(*addresses) as front:
            until_all_are_known(front)
            begun, cpu = time.monotonic(), cpu_seconds(front.pid)
            time.sleep(10 * bench.options.seconds)
            busy = (cpu_seconds(front.pid) - cpu) / (time.monotonic() - begun)
            size = len(front.get("/v1/plugins"))
            cpu = cpu_seconds(front.pid)
            for _ in range(LISTS):
                front.get("/v1/plugins")
            listing = (cpu_seconds(front.pid) - cpu) / LISTS
            memory = resident(front.pid)
    yield Figure(f"{HOSTS} hosts, {HOSTS * PLUGINS} plugins: CPU of the front", [100 * busy], "% of a core")
    yield Figure("  memory of the front, resident", [memory / 1e6], "MB")
    yield Figure("  size of its list", [size / 1e6], "MB")
    yield Figure("  CPU of its list", [1000 * listing], "ms")


def until_all_are_known(front: "Fronted") -> None:
    end = time.monotonic() + 30
    while not all(host["state"] == "ONLINE" for host in json.loads(front.get("/v1/hosts"))):
        assert time.monotonic() < end, "not all hosts are known"
        time.sleep(0.1)


class Fronted(NamedTuple):
    """A front's process; `target` as the load takes it."""

    pid: int
    port: int

    @property
    def target(self) -> str:
        return f"tcp:127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            body: bytes = answer.read()
            return body


@contextmanager
def fronted(*addresses: str) -> Iterator[Fronted]:
    """A front's process over these hosts, once it listens."""
    with tempfile.TemporaryDirectory() as home:
        hosts, port = Path(home) / "hosts.yaml", free_port()
        hosts.write_text("".join(f"- {{name: host-{at}, address: '{each}'}}\n" for at, each in enumerate(addresses)))
        settings = [f"ORCHESTRATOR_PORT={port}", f"ORCHESTRATOR_STATE_DIR={home}/state"]
        command = ["env", *settings, sys.executable, "-m", "orchestrator", "front", "--hosts", str(hosts)]
        with watched_process(command) as process:
            until_it_listens(port, process)
            yield Fronted(process.pid, port)
