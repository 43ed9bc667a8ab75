"""Fencing: a host that comes back ends what was moved away from it by force while it was silent."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec

from orchestrator.errors import OrchestratorError
from orchestrator.front.epochs import Epochs, Fenced, outdated
from orchestrator.front.hosts import Hosts
from orchestrator.front.placing import plugin_path

_ASK_SECONDS: Final = 2.0
_END_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.5
_CHECK_SECONDS: Final = 30.0
"""Between two looks though no host has come back."""

_log = logging.getLogger(__name__)


class Fencing:
    """Every front does it, and any number of times: a host that has obeyed has nothing to end any more."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._changed = asyncio.Event()
        self._answering: frozenset[str] = frozenset()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the hosts while entered."""
        with self._hosts.listening(self._look):
            self._look()
            task = asyncio.create_task(self._follow(), name="fencing")
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _look(self) -> None:
        before, self._answering = self._answering, frozenset(h.name for h in self._hosts.directory if h.status.answers)
        if self._answering - before:
            self._changed.set()

    async def _follow(self) -> None:
        pause = _CHECK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            self._changed.clear()
            pause = _CHECK_SECONDS if await self._fence() else _RETRY_SECONDS

    async def _fence(self) -> bool:
        """Whether all is as it should be, as far as hosts answer."""
        asked = sorted(self._answering)
        found = await asyncio.gather(*map(self._epochs, asked))
        epochs = {host: each for host, each in zip(asked, found, strict=True) if each is not None}
        plugins = {host.name: frozenset(host.plugins) for host in self._hosts.directory}
        return all(await asyncio.gather(*map(self._end, outdated(epochs, plugins))))

    async def _epochs(self, host: str) -> Epochs | None:
        try:
            answer = await self._hosts.link(host).get("/v1/host", within=_ASK_SECONDS)
            found = answer.json() if answer.status == 200 else None
        except (OrchestratorError, KeyError):
            return None
        epochs = found.get("epochs") if isinstance(found, dict) else None
        return epochs if isinstance(epochs, dict) else None

    async def _end(self, fenced: Fenced) -> bool:
        host, plugin, epoch = fenced
        _log.warning("%s was moved to %s by force; %s is back, and ends its own", plugin, epoch["to"], host)
        body = msgspec.json.encode({"to": epoch["to"], "epoch": epoch})
        try:
            with self._hosts.changing(host):
                answer = await self._hosts.link(host).get(
                    f"{plugin_path(plugin)}/hand-over",
                    method="POST",
                    body=body,
                    headers=((b"content-type", b"application/json"),),
                    within=_END_SECONDS,
                )
        except (OrchestratorError, KeyError):
            return host not in self._answering  # silent again: its return is a new one
        if answer.status != 200:
            _log.error("%s was not ended on %s (%d); stop it there by hand", plugin, host, answer.status)
        return True
