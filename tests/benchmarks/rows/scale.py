"""A hundred plugins started, used and killed at random: it shows what fails only then."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.bench import Bench, Options
from benchmarks.figures import Figure, Target
from benchmarks.processes import resident
from benchmarks.served import UP, Served

ACTORS = 6
TIMEOUT = 2.0
EXPECTED = frozenset({200, 429, 502, 503, 504})
"""Statuses that a call may get while others kill, stop and restart its plugin."""
_MEGA = 1_000_000
_SAMPLE = 5.0


@dataclass
class Trial:
    """What the actors saw. All of them append, which is safe among threads."""

    done: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    good_calls: list[float] = field(default_factory=list)
    """Seconds."""
    late: list[float] = field(default_factory=list)
    """Seconds beyond the time limit."""
    health_statuses: Counter[int] = field(default_factory=Counter)
    health_seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """MB of the orchestrator."""
    broken: list[str] = field(default_factory=list)


def measure(bench: Bench) -> Iterator[Figure]:
    """Ten minutes by default; then every dead plugin is started, and finally all are stopped."""
    names = [f"p{number:03}" for number in range(bench.options.plugins)]
    limits = {"timeout": f"{TIMEOUT:g}s", "memory": "64MiB"}
    trial = Trial()
    with bench.up(names, limits=limits, startup_timeout="120s") as orchestrator:
        _run(orchestrator, names, trial, bench.options)
        dead = [p["name"] for p in orchestrator.plugins() if p["state"] not in UP]
        started = time.monotonic()
        orchestrator.command(dead, "start")
        recovered = orchestrator.until_up(within=600) - started
        running = len(orchestrator.containers())
        every = len(orchestrator.containers(every=True))
        last = resident(orchestrator.pid) / _MEGA
        orchestrator.command(names, "stop")
        left = len(orchestrator.containers(every=True))
        folders = len(list(orchestrator.run_dir.glob("*/*"))) if orchestrator.run_dir.exists() else 0
    none = Target("≤", 0)
    done = ", ".join(f"{count} {what}" for what, count in trial.done.most_common())
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(trial.answers.items()))
    wrong = sum(count for status, count in trial.answers.items() if status not in EXPECTED)
    yield Figure(f"scale, {len(names)} plugins: operations", [float(sum(trial.done.values()))], "", note=done)
    yield Figure("  answers that no call may get", [float(wrong)], "", none, note=statuses)
    yield Figure("  broken connections", [float(len(trial.broken))], "", none, note="; ".join(trial.broken[:2]))
    if trial.good_calls:
        yield Figure("  good calls", [s * 1000 for s in trial.good_calls], "ms")
        yield Figure("  good calls, p99", [s * 1000 for s in trial.good_calls], "ms", measure="p99")
    if trial.late:
        yield Figure("  answers after the time limit", trial.late, "s", Target("≤", 0.1), measure="p99")
    bad = sum(count for status, count in trial.health_statuses.items() if status not in (200, 404))
    yield Figure("  health answers other than 200 and 404", [float(bad)], "", none)
    slowest = [s * 1000 for s in trial.health_seconds]
    yield Figure("  health answers", slowest, "ms", Target("≤", 100), measure="p99")
    yield Figure("  plugins started again at the end", [recovered], "s", note=f"{len(dead)} were down")
    yield Figure("  containers beyond one a plugin", [float(max(every, running) - len(names))], "", none)
    yield Figure("  containers and socket folders after a stop of all", [float(left + folders)], "", none)
    yield Figure(
        "  orchestrator's memory", trial.memory, "MB", Target("<", 150), measure="max", note=f"{last:.0f} at last"
    )


def _run(orchestrator: Served, names: list[str], trial: Trial, options: Options) -> None:
    over = threading.Event()
    threads = [
        threading.Thread(target=_act, args=(orchestrator, names, trial, over, random.Random(options.seed * 1000 + n)))
        for n in range(ACTORS)
    ]
    threads.append(threading.Thread(target=_watch, args=(orchestrator, names, trial, over)))
    for thread in threads:
        thread.start()
    end = time.monotonic() + options.scale_minutes * 60
    while time.monotonic() < end:
        trial.memory.append(resident(orchestrator.pid) / _MEGA)
        over.wait(min(_SAMPLE, max(0.0, end - time.monotonic())))
    over.set()
    for thread in threads:
        thread.join()


def _act(orchestrator: Served, names: list[str], trial: Trial, over: threading.Event, dice: random.Random) -> None:
    actions: dict[str, tuple[int, Callable[[str], None]]] = {
        "calls": (60, lambda name: _call(orchestrator, name, trial, "echo", text="hello")),
        "short sleeps": (15, lambda name: _call(orchestrator, name, trial, "sleep", seconds=dice.random() / 5)),
        "hangs": (3, lambda name: _call(orchestrator, name, trial, "hang")),
        "memory eaten": (3, lambda name: _call(orchestrator, name, trial, "eat")),
        "exits": (3, lambda name: _call(orchestrator, name, trial, "leave")),
        "killed": (4, lambda name: _kill(orchestrator, name)),
        "stops": (2, lambda name: orchestrator.command([name], "stop")),
        "starts": (6, lambda name: orchestrator.command([name], "start")),
        "restarts": (4, lambda name: orchestrator.command([name], "restart")),
    }
    weights = [weight for weight, _ in actions.values()]
    while not over.is_set():
        (what,) = dice.choices(list(actions), weights)
        try:
            actions[what][1](dice.choice(names))
            trial.done[what] += 1
        except (OSError, AssertionError) as error:
            trial.broken.append(f"{what}: {error}")


def _call(orchestrator: Served, name: str, trial: Trial, tool: str, **arguments: object) -> None:
    started = time.monotonic()
    status, answer = orchestrator.run(name, tool, **arguments)
    took = time.monotonic() - started
    trial.answers[status] += 1
    if status == 200 and tool == "echo":
        assert answer["result"] == "hello", f"the answer is not that of this call: {answer}"
        trial.good_calls.append(took)
    if status == 504:
        trial.late.append(max(0.0, answer["execution_time_ms"] / 1000 - TIMEOUT))


def _kill(orchestrator: Served, name: str) -> None:
    with suppress(ValueError, ProcessLookupError):  # it has no container now
        if pid := orchestrator.container(name).attrs["State"]["Pid"]:
            os.kill(pid, signal.SIGKILL)


def _watch(orchestrator: Served, names: list[str], trial: Trial, over: threading.Event) -> None:
    for number in iter(lambda: len(trial.health_seconds), -1):
        if over.wait(0.05):
            return
        path = "/v1/plugins" if number % 2 else f"/v1/plugins/{names[number // 2 % len(names)]}/health"
        started = time.monotonic()
        try:
            trial.health_statuses[orchestrator.request("GET", path)[0]] += 1
        except OSError as error:
            trial.broken.append(f"{path}: {error}")
        trial.health_seconds.append(time.monotonic() - started)
