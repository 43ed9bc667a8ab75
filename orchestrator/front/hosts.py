"""Hosts: all hosts of a front, with their connections and feeds, and the directory of what they say."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from time import monotonic
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.front import directory, host_state
from orchestrator.front.directory import Directory, KnownHost
from orchestrator.front.host_feed import HostFeed
from orchestrator.front.host_link import HostLink, HostUnreachableError
from orchestrator.front.host_state import excused, forgotten, heard, proves_life, ticked
from orchestrator.front.hosts_file import HostEntry

FRESH_SECONDS: Final = 0.05
"""That a health route waits at most for hosts whose plugins may be other than is known."""
_RELIST_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.25
_MAX_STALL: Final = 0.25
"""Seconds by which the front itself may be late before that counts."""

_log = logging.getLogger(__name__)


class Hosts:
    """Use it on one event loop. Raises `HostsFileError` where a key or certificate cannot be read."""

    def __init__(self, entries: Collection[HostEntry], clock: Callable[[], float] = monotonic) -> None:
        """`clock`: monotonic, in seconds."""
        self.clock = clock
        self.fresh_seconds = FRESH_SECONDS
        """How long health waits at most; longer where being right matters more than being quick."""
        self._directory = Directory()
        self._members: dict[str, _Member] = {}
        self._listeners: set[Callable[[], None]] = set()
        self.leaving: set[tuple[str, str]] = set()
        """Host and plugin of moves under way: new runs go to the plugin's other hosts."""
        self._forgotten: dict[str, HostEntry] = {}
        self._running = False
        self._looked = clock()
        self._admit([_Member(entry, self) for entry in entries], entries)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow all hosts while entered."""
        self._running, self._looked = True, self.clock()
        ticking = asyncio.create_task(self._tick())
        for member in self._members.values():
            member.follow()
        try:
            yield
        finally:
            ticking.cancel()
            closing = [member.close() for member in self._members.values()]
            await asyncio.gather(ticking, *closing, return_exceptions=True)

    async def update(self, entries: Collection[HostEntry]) -> None:
        """Have these hosts from now on. Those that are reached as before go on undisturbed, with their labels and keys
        as they are now; requests to the others that were there break off. Raises `HostsFileError`, with nothing
        changed.
        """
        forgotten = {each.name: each for each in entries if self._forgotten.get(each.name) == each}
        entries = [entry for entry in entries if entry.name not in forgotten]
        # Whatever may be refused comes first.
        made = [_Member(entry, self) for entry in entries if not self._reaches(entry)]
        keys = {entry.name: entry.key() for entry in entries if self._reaches(entry)}
        self._forgotten = forgotten
        for entry in entries:
            if entry.name in keys:
                self._members[entry.name].link.use(entry, keys[entry.name])
        await self._replace(made, entries)

    async def _replace(self, made: Collection["_Member"], entries: Collection[HostEntry]) -> None:
        """Have the hosts of `entries`: `made` are new, or reached otherwise than before."""
        kept = {entry.name for entry in entries} - {member.name for member in made}
        dropped = [member for name, member in self._members.items() if name not in kept]
        for member in dropped:
            del self._members[member.name]
            known = self._directory.hosts[member.name]
            self.put(directory.observed(known, forgotten(known.status, self.clock())))
            self._directory = self._directory.without_host(member.name)
        self._admit(made, entries)
        await asyncio.gather(*(member.close() for member in dropped))

    def _reaches(self, entry: HostEntry) -> bool:
        return entry.name in self._members and self._members[entry.name].link.reaches(entry)

    def _admit(self, made: Collection["_Member"], entries: Collection[HostEntry]) -> None:
        """Take these in, in the order of `entries`."""
        members = {**self._members, **{member.name: member for member in made}}
        self._members = {entry.name: members[entry.name] for entry in entries}
        now, known = self.clock(), self._directory.hosts
        self._directory = Directory({
            entry.name: directory.labelled(known[entry.name], entry.labels)
            if entry.name in known
            else directory.joined(entry.name, entry.address, entry.labels, now)
            for entry in entries
        })  # fmt: skip
        for member in made if self._running else ():
            member.follow()
        self._changed()

    async def forget(self, host: str) -> None:
        """It is no host of this front any more, whatever hosts.yaml says of it, until that says something else. Nothing
        there is ended.
        """
        self._forgotten[host] = self._members[host].link.entry
        await self._replace((), [member.link.entry for name, member in self._members.items() if name != host])

    # What is known

    @property
    def directory(self) -> Directory:
        """As of now."""
        now = self.clock()
        # Everything here runs on one loop: where this comes late, answers wait to be read.
        stalled = now - self._looked - _TICK_SECONDS
        self._looked = now
        for host in self._directory:
            status = ticked(excused(host.status, stalled, now) if stalled > _MAX_STALL else host.status, now)
            if status is not host.status:
                self.put(directory.observed(host, status))
        return self._directory

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def put(self, host: KnownHost) -> None:
        """Replace what is known of a host."""
        before = self._directory.hosts.get(host.name)
        if before is None or before is host:
            return
        if before.status.state is not host.status.state:
            why = f": {host.status.problem}" if host.status.problem else ""
            _log.info("the host %s is %s%s", host.name, host.status.state, why)
        self._directory = self._directory.with_host(host)
        self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    def mark(self, host: str, *, drained: bool) -> None:
        """An operator has drained or resumed it, which the host itself has on file."""
        known, now = self.directory.hosts[host], self.clock()
        change = host_state.drained if drained else host_state.resumed
        self.put(directory.observed(known, change(known.status, now)))

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """`listener` is called whenever something is known that was not."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    # Requests

    def link(self, host: str) -> HostLink:
        """Raises `HostUnreachableError`, with nothing sent, for a host that has been forgotten meanwhile."""
        return self._member(host).link

    def _member(self, host: str) -> "_Member":
        if (member := self._members.get(host)) is not None:
            return member
        sentence = f"The host {host} is no longer one of this front's: hosts.yaml has it no more."
        raise HostUnreachableError(host, sentence, sent=False)

    def answered(self, host: str, status: int) -> None:
        """A request was answered with this HTTP status: if by the host, as good as the answer to a question whether it
        does.
        """
        if not proves_life(status):
            return
        known, now = self._directory.hosts.get(host), self.clock()
        if known is not None and known.status.answers and now - (known.status.heard or 0.0) > _TICK_SECONDS:
            self._directory = self._directory.with_host(directory.observed(known, heard(known.status, now)))

    def load(self, host: str, plugin: str) -> int:
        """Runs of the plugin that this front has sent there and that have not ended."""
        member = self._members.get(host)
        return 0 if member is None else member.runs[plugin]

    @contextmanager
    def changing(self, host: str, run_of: str | None = None) -> Iterator[None]:
        """While a request is under way that changes something there; a run of the plugin `run_of`. Raises as `link`."""
        member = self._member(host)
        member.changes += 1
        if run_of is not None:
            member.runs[run_of] += 1
        try:
            yield
        finally:
            member.changes -= 1
            member.changed_at = self.clock()
            if run_of is not None:
                member.runs[run_of] -= 1
                if not member.runs[run_of]:
                    del member.runs[run_of]

    def during(self, host: str, method: str) -> AbstractContextManager[None]:
        """While a request with this method is under way there."""
        return nullcontext() if method in ("GET", "HEAD") else self.changing(host)

    # Freshness: what was changed through this front shows in its next answer, as it would without a front.

    async def refresh(self) -> None:
        """Have the hosts that may be other than is known list their plugins, for as long as health may take."""
        behind = [member for member in self._members.values() if member.is_behind]
        await self.within_health([member.list_plugins() for member in behind], [member.name for member in behind])

    async def relist(self, host: str) -> None:
        """Have one host list its plugins, for as long as a decision may wait for that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELIST_SECONDS):
                await self._member(host).list_plugins()

    async def within_health(self, work: Collection[Coroutine[Any, Any, object]], hosts: Collection[str]) -> None:
        """Do the work for these hosts, at most for `fresh_seconds`. One that is late is not waited for again until it
        has answered something.
        """
        if not work:
            return
        tasks = {asyncio.ensure_future(each): host for each, host in zip(work, hosts, strict=True)}
        try:
            _, late = await asyncio.wait(tasks, timeout=self.fresh_seconds)
        finally:
            for task in tasks:
                task.cancel()
        for task in late:
            if (member := self._members.get(tasks[task])) is not None:
                member.late_since = self.clock()
        for task in tasks.keys() - late:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, OrchestratorError):
                raise error

    async def ask_readiness(self, host: str) -> None:
        """Have the host say whether it is ready. Raises `OrchestratorError`."""
        await self._member(host).feed.ask()

    def worth_waiting(self, host: str) -> bool:
        """Whether the host answers, and was not late since it did."""
        member = self._members.get(host)
        return member is not None and member.answers_in_time

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            _ = self.directory


class _Member:
    """One host: a `HostRecord`, and how far its record can be trusted."""

    def __init__(self, entry: HostEntry, hosts: Hosts) -> None:
        self.name = entry.name
        self._hosts = hosts
        self.link = HostLink(entry)
        self.feed = HostFeed(self.link, self)
        self.runs: Counter[str] = Counter()
        self.changes = 0
        """Requests under way that change something."""
        self.changed_at = float("-inf")
        self.late_since = float("-inf")
        self._listed_at = float("-inf")
        self._listing: asyncio.Task[None] | None = None
        self._next_listing: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    def follow(self) -> None:
        self._following = asyncio.create_task(self.feed.follow(), name=f"following {self.name}")

    def now(self) -> float:
        return self._hosts.clock()

    @property
    def known(self) -> KnownHost:
        """As it is known; where it is no longer one of the hosts, what is put of it counts for nothing."""
        known = self._hosts.directory.hosts.get(self.name)
        return known or directory.joined(self.name, self.link.entry.address, {}, self.now())

    def put(self, host: KnownHost) -> None:
        self._hosts.put(host)

    def listed(self, since: float) -> None:
        self._listed_at = max(self._listed_at, since)

    def changed(self) -> None:
        self.changed_at = self.now()

    @property
    def is_behind(self) -> bool:
        return (self.changes > 0 or self.changed_at >= self._listed_at) and self.answers_in_time

    @property
    def answers_in_time(self) -> bool:
        status = self.known.status
        return status.answers and (status.heard or 0.0) > self.late_since

    async def list_plugins(self) -> None:
        """A list that was begun after this call: one that is under way may be older than what the caller has seen."""
        # One at a time, however many wait: those that come while one is under way share the next.
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list_plugins())
            await asyncio.shield(self._listing)
            return
        if self._next_listing is None or self._next_listing.done():
            self._next_listing = asyncio.create_task(self._list_after(self._listing))
        await asyncio.shield(self._next_listing)

    async def _list_after(self, earlier: asyncio.Task[None]) -> None:
        await asyncio.wait((earlier,))
        self._listing = asyncio.current_task()
        self._next_listing = None
        await self._list_plugins()

    async def _list_plugins(self) -> None:
        with suppress(OrchestratorError):  # what is known stays
            await self.feed.list_plugins()

    async def close(self) -> None:
        for task in (self._following, self._listing, self._next_listing):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        await self.link.close()
