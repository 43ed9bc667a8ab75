"""Writes on their way to the database: their acknowledgements, and a bounded queue that hands them out in batches."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple

from orchestrator.registry.history.records import Counters
from orchestrator.registry.history.writes import FlushBarrier, Write, counters_delta, memory_bytes

ACK_TIMEOUT: Final = 2.0  # seconds; a slower disk must not hold up an answered run

PendingCounters = Mapping[str, Counters]
"""Counter deltas of dropped writes, by plugin, that the database does not have yet."""

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[bool]"]

# Guards `_stored` and `_waiters` of all acknowledgements; held for a few instructions, so one lock does for all.
_lock: Final = threading.Lock()


def _nothing() -> None:
    pass


class WriteAck:
    """`await ack` is True once the write is stored, and False when it is not, or not within `ACK_TIMEOUT`. Raises
    nothing but cancellation.
    """

    __slots__ = ("_on_wait", "_stored", "_waiters")

    def __init__(self, on_wait: Callable[[], None] = _nothing, *, stored: bool | None = None) -> None:
        """`on_wait` is called when a caller starts to wait. `stored`: the answer, where it is known already."""
        self._on_wait = on_wait
        self._stored = stored
        self._waiters: list[_Waiter] = []

    def __await__(self) -> Generator[Any, None, bool]:
        # Without a coroutine: nearly every write is stored when it is awaited.
        if self._stored is not None:
            return self._stored
        return (yield from self._wait().__await__())

    async def _wait(self) -> bool:
        loop = asyncio.get_running_loop()
        with _lock:
            if self._stored is not None:
                return self._stored
            # Within the lock, so that no answer comes between the look and the wait.
            future: asyncio.Future[bool] = loop.create_future()
            self._waiters.append((loop, future))
        self._on_wait()
        try:
            async with asyncio.timeout(ACK_TIMEOUT):
                return await future
        except TimeoutError:
            return False


STORED: Final = WriteAck(stored=True)
NOT_STORED: Final = WriteAck(stored=False)


def settle(acks: Iterable[WriteAck], *, stored: bool) -> None:
    """Answer these acknowledgements, from any thread."""
    waiters: list[_Waiter] = []
    with _lock:
        for ack in acks:
            if ack._stored is None:  # noqa: SLF001 - the other half of the same class, for a whole batch
                ack._stored = stored  # noqa: SLF001
                waiters += ack._waiters  # noqa: SLF001
    # One wake-up per event loop, not one per waiter: each costs a system call.
    waiters.sort(key=lambda waiter: id(waiter[0]))
    for _, of_loop in groupby(waiters, key=lambda waiter: id(waiter[0])):
        group = list(of_loop)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            group[0][0].call_soon_threadsafe(_resolve, [future for _, future in group], stored)


def _resolve(futures: list["asyncio.Future[bool]"], stored: bool) -> None:  # noqa: FBT001 - call_soon has no keywords
    for future in futures:
        if not future.done():
            future.set_result(stored)


class QueuedWrite(NamedTuple):
    """A write with its acknowledgement."""

    write: Write
    ack: WriteAck
    number: int = 0
    """Its position in the order of all writes, flush barriers included."""
    journalled: bool = False


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """Writes for one transaction."""

    entries: Sequence[QueuedWrite] = ()
    pending: PendingCounters | None = None
    """Of writes that came before all the entries."""
    through: int = 0
    """The number of the last write in it."""


class WriteQueue:
    """A queue of at most `max_bytes`. When it is full the oldest write is dropped, but never what it counts: that
    stays as a pending delta to the counters. Pure; its owner guards it with a lock.
    """

    def __init__(self, max_bytes: int) -> None:
        self.lost = 0
        """Writes that will never be made."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: deque[QueuedWrite] = deque()
        self._pending: dict[str, Counters] = {}
        self._dropped_through = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def half_full(self) -> bool:
        """A write put now may be dropped before it is in the database."""
        return self._bytes > self._max_bytes // 2

    def put(self, entry: QueuedWrite) -> list[QueuedWrite]:
        """Queue it; returns the dropped ones."""
        self._entries.append(entry)
        self._bytes += memory_bytes(entry.write)
        dropped = []
        while self._bytes > self._max_bytes:
            dropped.append(self._drop_oldest())
        return dropped

    def take_batch(self, max_writes: int) -> WriteBatch:
        """Remove the oldest writes and all pending counters; the caller writes them or requeues them."""
        entries = [self._entries.popleft() for _ in range(min(max_writes, len(self._entries)))]
        self._bytes -= sum(memory_bytes(entry.write) for entry in entries)
        pending, self._pending = self._pending, {}
        return WriteBatch(entries, pending, entries[-1].number if entries else self._dropped_through)

    def requeue(self, batch: WriteBatch) -> None:
        """Put a batch that could not be written back at the front, as far as there is room."""
        newer, self._pending = self._pending, dict(batch.pending or {})
        self._entries.extendleft(reversed(batch.entries))
        self._bytes += sum(memory_bytes(entry.write) for entry in batch.entries)
        # Later writes were dropped meanwhile: these are older and must be dropped before them, so that pending
        # counters stay older than all queued writes.
        if newer:
            for _ in batch.entries:
                self._drop_oldest()
        for plugin, delta in newer.items():
            self._add_pending(plugin, delta)
        while self._bytes > self._max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> QueuedWrite:
        entry = self._entries.popleft()
        self._bytes -= memory_bytes(entry.write)
        self._dropped_through = max(self._dropped_through, entry.number)
        self.lost += not isinstance(entry.write, FlushBarrier)
        if (change := counters_delta(entry.write)) is not None:
            self._add_pending(*change)
        return entry

    def _add_pending(self, plugin: str, delta: Counters) -> None:
        self._pending[plugin] = self._pending.get(plugin, Counters()).plus(delta)
