"""From nothing to the first answer, and the memory of one plugin and of eight."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.figures import rotated
from benchmarks.peers.answers import until_it_answers
from benchmarks.peers.contestant import PLUGIN, Contestant, Setup
from benchmarks.peers.process_tree import proportional_memory
from benchmarks.peers.samples import Samples

MANY: Final = 8
_SETTLE: Final = 2.0
"""Seconds after the last first answer until memory is read."""
_MEGA: Final = 1_000_000


def measure(contestants: Sequence[Contestant], samples: Samples, *, rounds: int, say: Callable[[str], None]) -> None:
    """Fill the columns of starts and memory. One contestant is up at a time."""
    by_name = {contestant.name: contestant for contestant in contestants}
    many = [f"{PLUGIN}-{number}" for number in range(MANY)]
    for number in range(rounds if by_name else 0):
        say(f"starts, round {number + 1} of {rounds}")
        samples.begin_round(["start", "memory", "start_many", "memory_many"])
        for name in rotated(list(by_name), number):
            say(f"{name}: starting one plugin, then {MANY}")
            for plugins, suffix in (([PLUGIN], ""), (many, "_many")):
                with samples.noting(name, f"start{suffix}", f"memory{suffix}"):
                    _one(by_name[name], plugins, suffix, samples)


def _one(contestant: Contestant, plugins: Sequence[str], suffix: str, samples: Samples) -> None:
    started = time.monotonic()
    with contestant.running(Setup(plugins)) as running:
        answered = max(until_it_answers(contestant, running, plugin) for plugin in plugins)
        samples.add(contestant.name, f"start{suffix}", answered - started)
        time.sleep(_SETTLE)
        try:
            samples.add(contestant.name, f"memory{suffix}", proportional_memory(running.pids()) / _MEGA)
        except PermissionError as error:
            raise RuntimeError("the memory of other users' processes (a container's) is for root alone") from error
