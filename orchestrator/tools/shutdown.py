"""Shutdown: from the request to stop until nothing is left to wait for. Meanwhile health and lists are answered."""

import asyncio
import logging
from typing import Final

from orchestrator.registry.history import HistoryStore
from orchestrator.settings import Settings
from orchestrator.supervisor.fleet import Fleet
from orchestrator.tools.tool_runner import ToolRunner

CLOSE_SECONDS: Final = 20.0
"""Longest time, after the drain, for instances to be let go of or stopped: an engine may not answer. What an operator
adds to the usual grace and engine timeout is added to it.
"""
_USUAL_END: Final = 12.0
"""Seconds of the usual grace and engine timeout together."""

TRANSFER_SECONDS: Final = 3.0
"""Limit, after the last run, for answers on slow connections."""
EXIT_SECONDS: Final = 5.0
"""Limit for everything after that: the history is closed, the port too."""

_log = logging.getLogger(__name__)


def longest_stop(settings: Settings) -> float:
    """Seconds from the first SIGTERM until the process has exited, whatever happens."""
    closing = CLOSE_SECONDS + longer_end(settings)
    return settings.drain.total_seconds() + closing + TRANSFER_SECONDS + EXIT_SECONDS


def longer_end(settings: Settings) -> float:
    """Seconds by which the end of a container may take longer than usual."""
    return max(0.0, settings.stop_grace.total_seconds() + settings.engine_timeout.total_seconds() - _USUAL_END)


class Shutdown:
    """`stop_plugins`: containers are stopped and removed, else they stay for the next start."""

    def __init__(
        self, runner: ToolRunner, fleet: Fleet, history: HistoryStore, settings: Settings, *, stop_plugins: bool
    ) -> None:
        self.requested = asyncio.Event()
        """Set first: streams without an end end, waits for a start are over, runs and starts are refused."""
        self._runner = runner
        self._fleet = fleet
        self._history = history
        self._drain = settings.drain.total_seconds()
        self._longer_end = longer_end(settings)
        self._stop_plugins = stop_plugins
        self._at_once = asyncio.Event()
        self._completed: asyncio.Task[None] | None = None

    def hurry(self) -> None:
        """Wait for nothing any more: callers in flight get 503, containers stay as they are."""
        if not self._at_once.is_set():
            _log.warning("stopping at once")
            self._at_once.set()

    async def complete(self) -> None:
        """Returns when no run and no instance is left. May be called several times."""
        if self._completed is None:
            self._completed = asyncio.create_task(self._complete(), name="shutdown")
        await asyncio.shield(self._completed)

    async def _complete(self) -> None:
        self.requested.set()
        await self._runner.drain(self._drain, self._at_once, containers_stay=not self._stop_plugins)
        await self._close_fleet()
        # Here, while health is answered, so that the history's own end takes no time.
        await self._history.flush()

    async def _close_fleet(self) -> None:
        closing = asyncio.create_task(self._fleet.close(stop_plugins=self._stop_plugins))
        hurried = asyncio.create_task(self._at_once.wait())
        seconds = CLOSE_SECONDS + self._longer_end
        await asyncio.wait((closing, hurried), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if closing.done():
            closing.result()
            return
        closing.cancel()
        await asyncio.wait((closing,), timeout=1)
        if not self._at_once.is_set():
            _log.warning("the engine does not answer; the next start removes the containers that are left")
