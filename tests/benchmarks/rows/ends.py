"""How soon an end is detected or made: a container killed from outside, a tool over its time."""

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
    """One at a time; the killed ones are restarted together. Enough of them for a meaningful p99."""
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
    """Seconds from the signal to the answer that reports it."""
    pid = orchestrator.container(name).attrs["State"]["Pid"]
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    seen = orchestrator.until_states(name, FINAL)
    code = orchestrator.health(name)["reason_code"]
    assert code == "KILLED", f"{name} was killed from outside, and its reason is {code}"
    return seen - started


def deadline(bench: Bench) -> Iterator[Figure]:
    """A plugin that obeys SIGTERM, then one that ignores it: at the same time they would wait for each other."""
    answered: list[float] = []
    removed: dict[str, list[float]] = {"polite": [], "deaf": []}
    with bench.plugins(["polite"], limits={"timeout": f"{TIMEOUT:g}s"}) as folder:
        write_plugin(folder, "deaf", bench.image, limits={"timeout": f"{TIMEOUT:g}s"}, env={"BENCH_DEAF": "1"})
        with served(folder) as orchestrator:
            orchestrator.until_up()
            for round_number in range(bench.options.rounds):
                if round_number:
                    orchestrator.command(list(removed), "restart")
                    orchestrator.until_up()
                for name, ends in removed.items():
                    answer, end = _over_time(orchestrator, name)
                    answered.append(answer - TIMEOUT)
                    ends.append(end - TIMEOUT)
    yield Figure("deadline: answer after the time limit", answered, "s", Target("≤", 0.1), measure="max")
    limit = Target("≤", GRACE + 1)
    yield Figure("deadline: container removed after the time limit", removed["polite"], "s", limit, measure="max")
    yield Figure("  the same where SIGTERM is ignored", removed["deaf"], "s", limit, measure="max")


def _over_time(orchestrator: Served, name: str) -> tuple[float, float]:
    """Seconds from the call to its answer, and until the engine no longer lists the container."""
    container = orchestrator.container(name)
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        end = pool.submit(_until_removed, container)
        status, answer = orchestrator.run(name, "hang")
        answered = time.monotonic() - started
        assert (status, answer["reason_code"]) == (504, "TIMEOUT"), f"it was answered {status}: {answer}"
        return answered, end.result() - started


def _until_removed(container: Any) -> float:
    with suppress(docker.errors.NotFound):
        while True:
            container.reload()
            time.sleep(0.02)
    return time.monotonic()
