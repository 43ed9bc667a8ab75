"""What is compared: a contestant serves plugins, each with the same tools."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from benchmarks.load import Request

PLUGIN = "bench"
"""The plugin that loads call."""
ITEMS = 200
BURNT = 10
"""Milliseconds of CPU."""
TEXT = "The quick brown fox jumps over the lazy dog"


class Tool(StrEnum):
    """The same tools everywhere; `apps/workload.py` has those of the peers."""

    ECHO = "echo"
    DIGEST = "digest"
    """SHA-256 of an upload, in hexadecimal digits."""
    ITEMS = "items"
    """A stream of `ITEMS` items: `item-0` and so on."""
    BURN = "burn"
    """Computes for `BURNT` milliseconds of CPU."""
    DIE = "die"
    """Ends its own process by SIGKILL."""


class NotAvailableError(Exception):
    """A contestant cannot take part here; the message says why."""


@dataclass(frozen=True)
class Call:
    """A request to a contestant, without its address."""

    path: str
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def to(self, target: str) -> Request:
        return Request.post(target, self.path, self.body, self.content_type, self.headers)


@dataclass(frozen=True)
class Setup:
    """What to serve. `for_load`: also what only loads need, such as a route that streams. `broken` fails to load."""

    plugins: Sequence[str] = (PLUGIN,)
    for_load: bool = False
    broken: str | None = None


class Running(Protocol):
    """A contestant that has been started; it need not answer yet."""

    def target(self, plugin: str, tool: Tool) -> str:
        """The address at which a plugin's tool is called, as the load generator takes it."""

    def pids(self) -> set[int]:
        """All processes that serve: their CPU time and memory count."""

    def exited(self) -> str | None:
        """None while it runs; else how it ended."""


class Contestant(Protocol):
    """One row of the table."""

    name: str
    title: str
    """Name and version."""
    isolation: str
    """What stands between two plugins, and between a plugin and the server."""

    def prepare(self) -> None:
        """Install or build what is missing. Raises NotAvailableError."""

    def running(self, setup: Setup) -> AbstractContextManager[Running]:
        """Start it; it is stopped, with all its processes, at the context's end."""

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        """The call of a tool. `content` is what `Tool.DIGEST` uploads; `callers`: how many call at once."""

    def health(self, plugin: str) -> Sequence[str]:
        """Paths that say how the plugin, or the server, is."""
