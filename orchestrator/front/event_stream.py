"""The events of all hosts as one stream of server-sent events, for one reader.

State changes come from each host, from the reader's position there on, also after a cut. Health comes from the
directory, so that a plugin on several hosts is one, and one on a silent host is stale.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from orchestrator.access.principal import Principal
from orchestrator.api import sse
from orchestrator.api.concealment import Concealment
from orchestrator.errors import OrchestratorError
from orchestrator.front import merging
from orchestrator.front.cursors import Cursor
from orchestrator.front.host_link import HostLink
from orchestrator.front.hosts import Hosts
from orchestrator.front.sse_events import SseEvents

_MAX_BACKLOG: Final = 100  # frames that wait for a slow reader before hosts are read no further
_HEALTH_INTERVAL: Final = 1.0  # minimum seconds between two health frames of one plugin
_FIRST_SECONDS: Final = 2.0  # for a host to say where its newest event stands
_PAUSE: Final = 0.5  # seconds before a host's stream is opened again


class _HostEvent(NamedTuple):
    """A state change as its host has it; it becomes a frame, with a cursor, when the reader takes it."""

    host: str
    number: int
    data: dict[str, Any]


class EventStream:
    """`path`: of the events of all plugins, or of `plugin`. Ids of its events are cursors."""

    def __init__(
        self,
        hosts: Hosts,
        principal: Principal,
        *,
        shown: Concealment,
        path: str,
        plugin: str | None,
        cursor: Cursor,
    ) -> None:
        """`cursor`: where the reader is; of a host that it says nothing of, the next event is the first."""
        self._hosts = hosts
        self._principal = principal
        self._shown = shown
        self._path = path
        self._plugin = plugin
        self._cursor = cursor
        """After all that the reader has, and no more: it comes back with it."""
        self._read = dict(cursor.positions)
        """By host, the number of the last event that waits for the reader, or that it has."""
        self._waiting: asyncio.Queue[bytes | _HostEvent | None] = asyncio.Queue(_MAX_BACKLOG)

    async def frames(self, *, health: bool) -> AsyncIterator[bytes]:
        """Without end. `health`: also that of each plugin, first as it is and then after changes."""
        yield sse.OPENING
        tasks = [asyncio.create_task(self._follow(self._hosts.link(host))) for host in self._hosts.names]
        if health:
            tasks.append(asyncio.create_task(self._follow_health()))
        tasks.append(asyncio.create_task(self._end_with_other_hosts()))
        try:
            heartbeat: bytes | _HostEvent = sse.HEARTBEAT
            async for each in sse.with_heartbeats(self._waiting, heartbeat):
                yield self._lifecycle(each) if isinstance(each, _HostEvent) else each
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_with_other_hosts(self) -> None:
        """End the stream when the front has other hosts: its reader comes back, and then reads those."""
        names = self._hosts.names
        while self._hosts.names == names:  # noqa: ASYNC110 - once in months
            await asyncio.sleep(1)
        await self._waiting.put(None)

    # State changes

    async def _follow(self, link: HostLink) -> None:
        while True:
            with suppress(OrchestratorError, ValueError, LookupError, TypeError, msgspec.DecodeError):
                if link.name not in self._read:
                    self._read[link.name] = newest = await self._newest(link)
                    self._cursor = self._cursor.moved(link.name, newest)
                await self._follow_once(link)
            await asyncio.sleep(_PAUSE)

    async def _newest(self, link: HostLink) -> int:
        """The position of the host's newest event. Raises `OrchestratorError`, `LookupError`, `TypeError`,
        `ValueError`.
        """
        answer = await link.get(f"{self._path}?limit=1", within=_FIRST_SECONDS, caller=self._principal)
        events = answer.json() if answer.status == 200 else []
        return int(events[-1]["id"]) if events else 0

    async def _follow_once(self, link: HostLink) -> None:
        """Raises `OrchestratorError`, `ValueError`, `msgspec.DecodeError`."""
        position = str(self._read[link.name]).encode()
        headers = ((b"accept", b"text/event-stream"), (b"last-event-id", position))
        stream = await link.stream(self._path, headers, self._principal)
        try:
            if stream.status != 200:  # a host without this plugin
                return
            events = SseEvents()
            async for chunk in stream.chunks():
                for event in events.feed(chunk):
                    if event.kind == "lifecycle" and event.id.isdigit():
                        data = msgspec.json.decode(event.data, type=dict[str, Any])
                        await self._waiting.put(_HostEvent(link.name, int(event.id), data))
                        self._read[link.name] = int(event.id)
        finally:
            await stream.close()

    def _lifecycle(self, event: _HostEvent) -> bytes:
        """The frame of an event that the reader takes now."""
        self._cursor = self._cursor.moved(event.host, event.number)
        names = self._hosts.names
        cursor = self._cursor.text(names)
        data = {**event.data, "host": event.host}
        if len(names) > 1:
            data["cursor"] = cursor
        return f"event: lifecycle\nid: {cursor}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"

    # Health

    async def _follow_health(self) -> None:
        changed = asyncio.Event()
        changed.set()
        sent: dict[str, Mapping[str, Any]] = {}
        with self._hosts.listening(changed.set):
            while True:
                await changed.wait()
                changed.clear()
                for frame in self._changes(sent):
                    await self._waiting.put(frame)
                await asyncio.sleep(_HEALTH_INTERVAL)

    def _changes(self, sent: dict[str, Mapping[str, Any]]) -> list[bytes]:
        """What has changed since `sent`, which is brought up to date."""
        plugins = {
            plugin["name"]: plugin
            for plugin in merging.plugin_list(self._hosts.directory, self._hosts.clock())
            if self._principal.sees(plugin["name"]) and self._plugin in (None, plugin["name"])
        }
        frames = [self._health("removed", sent.pop(name)) for name in sent.keys() - plugins.keys()]
        for name, plugin in plugins.items():
            if name not in sent or _differs(sent[name], plugin):
                frames.append(self._health("health", plugin))
                sent[name] = plugin
        return frames

    def _health(self, kind: str, plugin: Mapping[str, Any]) -> bytes:
        return sse.frame(kind, msgspec.json.encode(self._shown.value(plugin)).decode())


def _differs(sent: Mapping[str, Any], plugin: Mapping[str, Any]) -> bool:
    """In more than what goes on by itself."""
    return _lasting(sent) != _lasting(plugin)


def _lasting(plugin: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [_lasting(each) for each in value] if name == "instances" else value
        for name, value in plugin.items()
        if name not in ("uptime_seconds", "observed_at", "candidate")
    }
