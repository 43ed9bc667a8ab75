"""ToolListWatch: which clients are to learn that their list of tools has changed."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from orchestrator.access.principal import Principal
from orchestrator.mcp.backend import Backend, BackendError, ListedTool

_SETTLE: Final = 0.1
"""Seconds after a change until lists are compared: a restart is several changes."""


class ToolListWatch:
    """Compares the lists that callers see whenever one may have changed, once for all clients with the same key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._watchers: dict[object, tuple[Principal, Callable[[], object]]] = {}
        self._seen: dict[Principal, list[ListedTool]] = {}
        self._changed = asyncio.Event()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._comparing: asyncio.Task[None] | None = None

    async def watch(self, caller: Principal, notify: Callable[[], object]) -> Callable[[], None]:
        """Call `notify` whenever what `caller` sees changes. Returns what ends that."""
        if caller not in self._seen:
            with suppress(BackendError):
                self._seen[caller] = await self._backend.tools(caller)
        token = object()
        self._watchers[token] = (caller, notify)
        if self._comparing is None:
            self._unsubscribe = self._backend.subscribe(self._changed.set)
            self._comparing = asyncio.create_task(self._compare(), name="MCP's list of tools")

        def end() -> None:
            self._watchers.pop(token, None)
            if not self._watchers:
                self.close()

        return end

    def close(self) -> None:
        """Compare no more, until somebody watches again."""
        self._unsubscribe()
        self._seen.clear()
        if self._comparing is not None:
            self._comparing.cancel()
            self._comparing = None

    async def _compare(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE)
            self._changed.clear()
            now: dict[Principal, list[ListedTool]] = {}
            with suppress(BackendError):
                for caller in {caller for caller, _ in self._watchers.values()}:
                    now[caller] = await self._backend.tools(caller)
            for caller, notify in list(self._watchers.values()):
                if caller in now and now[caller] != self._seen.get(caller):
                    notify()
            self._seen |= now
