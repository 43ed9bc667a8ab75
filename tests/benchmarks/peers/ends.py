"""What callers and health say when a plugin cannot be loaded, and when the process that executes a tool is killed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from benchmarks.peers.answers import Answer, fault_of, get, post, until_it_answers
from benchmarks.peers.contestant import Contestant, Running, Setup, Tool
from benchmarks.peers.samples import Samples

_ILL, _WELL = "ill", "well"
"""The plugin with which it happens, and another one on the same server (or a second, if a server has one)."""
_PATIENCE: Final = 10.0
"""Seconds for each answer."""
_RETURN: Final = 20.0
"""Seconds for a plugin, and for its neighbour, to serve again (or at all)."""


@dataclass(frozen=True)
class End:
    """Answers as lines of text, see `Answer`. `server`: whether it still runs; `back`: when it served again."""

    caller: str
    next_caller: str
    health: str
    neighbour: str
    server: str
    back: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    contestants: Sequence[Contestant], samples: Samples, found: dict[str, dict[str, End]], say: Callable[[str], None]
) -> None:
    """Fill `found`: contestant → `load` and `kill` → what was seen. What cannot be tried is noted in `samples`."""
    for contestant in contestants:
        say(f"{contestant.name}: a plugin that cannot be loaded, a worker killed")
        seen = found.setdefault(contestant.name, {})
        with samples.noting(contestant.name, "load"):
            seen["load"] = _load_failure(contestant)
        with samples.noting(contestant.name, "kill"):
            seen["kill"] = _killed(contestant)


def _load_failure(contestant: Contestant) -> End:
    with contestant.running(Setup((_ILL, _WELL), broken=_ILL)) as running:
        _until(lambda: bool(running.exited()) or _works(contestant, running, _WELL), _RETURN)
        time.sleep(1)  # until it has seen that the other one failed
        running.pids()
        return _look(contestant, running, _echo(contestant, running, _ILL))


def _killed(contestant: Contestant) -> End:
    with contestant.running(Setup((_ILL, _WELL))) as running:
        for plugin in (_ILL, _WELL):
            until_it_answers(contestant, running, plugin)
        killed = time.monotonic()
        caller = post(contestant.call(Tool.DIE, _ILL, b"", 1).to(running.target(_ILL, Tool.DIE)), _PATIENCE)
        after = _look(contestant, running, caller)
        works = _until(lambda: _works(contestant, running, _ILL), _RETURN - (time.monotonic() - killed))
        back = f"after {time.monotonic() - killed:.1f} s" if works else f"not within {_RETURN:.0f} s"
        return replace(after, back=back, server=running.exited() or after.server)


def _look(contestant: Contestant, running: Running, caller: Answer) -> End:
    next_caller = _echo(contestant, running, _ILL)
    health = [f"{path}: {get(running.target(_ILL, Tool.ECHO), path, _PATIENCE)}" for path in contestant.health(_ILL)]
    neighbour = _echo(contestant, running, _WELL)
    server = running.exited() or "runs"
    echoes = next_caller.summary(Tool.ECHO), neighbour.summary(Tool.ECHO)
    return End(caller.summary(Tool.ECHO), echoes[0], "; ".join(health), echoes[1], server)


def _echo(contestant: Contestant, running: Running, plugin: str) -> Answer:
    return post(contestant.call(Tool.ECHO, plugin, b"", 1).to(running.target(plugin, Tool.ECHO)), _PATIENCE)


def _works(contestant: Contestant, running: Running, plugin: str) -> bool:
    """By the result: not everybody answers a failure with another status than 200."""
    return fault_of(Tool.ECHO, b"", _echo(contestant, running, plugin)) is None


def _until(good: Callable[[], bool], within: float) -> bool:
    end = time.monotonic() + within
    while not good():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
