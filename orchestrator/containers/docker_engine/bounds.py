"""How long Docker Engine may take for what it is asked."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds within which the engine must have answered."""

    ask: float = 10
    change: float = 60
    """create, start and remove: a busy disk takes its time."""
    end: float = 25
    """kill, and stop on top of its grace: after SIGKILL the daemon itself waits up to 10 s for the exit."""
    pull: float = 1800
    build: float = 3600
    silence: float = 900
    """Between two lines of a build's output."""


USUAL: Final = Bounds()
