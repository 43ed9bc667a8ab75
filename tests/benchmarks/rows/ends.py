"""How soon an end is seen and made: a container killed from outside, a tool over its time."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import docker

from benchmarks.bench import Bench, write_plugin
from benchmarks.figures import Figure, Target
from benchmarks.served import Served, served

FINAL = frozenset({"FAILED", "UNAVAILABLE"})
TIMEOUT, GRACE = 1.0, 2.0
"""Seconds; the grace is the default."""
PLUGINS = 10


def killed(bench: Bench) -> Iterator[Figure]:
    """One at a time; those that are gone are brought back together. Enough of them for a p99 that says something."""
    names = [f"p{number}" for number in range(PLUGINS)]
    milliseconds = []
    with bench.up(names) as orchestrator:
        for round_number in range(bench.options.rounds):
            if round_number:
                orchestrator.command(names, "restart")
                orchestrator.until_up()
            milliseconds += [_kill(orchestrator, name) * 1000 for name in names]
    yield Figure("killed from outside, seen in the health API", milliseconds, "ms", Target("≤", 250), measure="p99")
    yield Figure("  the same, p50", milliseconds, "ms")


def _kill(orchestrator: Served, name: str) -> float:
    """Seconds from the signal to the answer that tells of it."""
    pid = orchestrator.container(name).attrs["State"]["Pid"]
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    seen = orchestrator.until_states(name, FINAL)
    code = orchestrator.health(name)["reason_code"]
    assert code == "KILLED", f"{name} was killed from outside, and is called {code}"
    return seen - begun


def deadline(bench: Bench) -> Iterator[Figure]:
    """What listens to SIGTERM, and what does not, one after the other: both at once would wait for each other."""
    answered: list[float] = []
    gone: dict[str, list[float]] = {"polite": [], "deaf": []}
    with bench.plugins(["polite"], limits={"timeout": f"{TIMEOUT:g}s"}) as folder:
        write_plugin(folder, "deaf", bench.image, limits={"timeout": f"{TIMEOUT:g}s"}, env={"BENCH_DEAF": "1"})
        with served(folder) as orchestrator:
            orchestrator.until_up()
            for round_number in range(bench.options.rounds):
                if round_number:
                    orchestrator.command(list(gone), "restart")
                    orchestrator.until_up()
                for name, ends in gone.items():
                    answer, end = _over_time(orchestrator, name)
                    answered.append(answer - TIMEOUT)
                    ends.append(end - TIMEOUT)
    yield Figure("deadline: answer after the time limit", answered, "s", Target("≤", 0.1), measure="max")
    limit = Target("≤", GRACE + 1)
    yield Figure("deadline: container gone after the time limit", gone["polite"], "s", limit, measure="max")
    yield Figure("  the same where SIGTERM is ignored", gone["deaf"], "s", limit, measure="max")


def _over_time(orchestrator: Served, name: str) -> tuple[float, float]:
    """Seconds from the call to its answer, and until the engine knows no such container."""
    container = orchestrator.container(name)
    with ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        end = pool.submit(_gone, container)
        status, answer = orchestrator.run(name, "hang")
        answered = time.monotonic() - begun
        assert (status, answer["reason_code"]) == (504, "TIMEOUT"), f"it was answered {status}: {answer}"
        return answered, end.result() - begun


def _gone(container: Any) -> float:
    with suppress(docker.errors.NotFound):
        while True:
            container.reload()
            time.sleep(0.02)
    return time.monotonic()
