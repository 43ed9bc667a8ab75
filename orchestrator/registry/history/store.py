"""HistoryStore: the history's public interface."""

import asyncio
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from orchestrator.registry.history import deliveries, queries
from orchestrator.registry.history.database_file import FILE_NAME
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.queries import HistoryReader, Patterns, Query
from orchestrator.registry.history.records import (
    DeliveryCounts,
    DeliveryRecord,
    DeliveryState,
    Restored,
    RunRecord,
    RunState,
)
from orchestrator.registry.history.recovering_database import RecoveringDatabase
from orchestrator.registry.history.retention import Retention, RetentionLimits
from orchestrator.registry.history.schema import decode_post_mortem, encode_post_mortem, microseconds, text
from orchestrator.registry.history.write_queue import WriteAck
from orchestrator.registry.history.writer import HistoryWriter
from orchestrator.registry.history.writes import (
    DeliveryWrite,
    EventWrite,
    FlushBarrier,
    Outbox,
    PostMortemWrite,
    RepeatWrite,
    RunWrite,
)
from orchestrator.registry.records import LifecycleEvent, PostMortem

_RESTORE_TIMEOUT: Final = 30.0  # seconds
_CLOSE_TIMEOUT: Final = 5.0

_T = TypeVar("_T")


class HistoryStore:
    """Events, runs and counters in `<state_dir>/history.sqlite3`. No method raises.

    A write may come from any thread and returns an acknowledgement at once. Await that where nothing may go on before
    the write is stored, else ignore it. True: the write outlives SIGKILL at any moment. False: it is not stored, or not
    within two seconds. As a rule it is stored, in the journal, when the call returns, and within a second in the
    database. It may still be dropped if the database stays unwritable until the queue is full (`lost`).

    `state_dir` should be on a local disk: the journal is written on the caller's thread, so a file system that hangs (a
    hard NFS mount, a frozen disk) blocks the event loop.
    """

    def __init__(self, state_dir: Path, *, max_age: timedelta, max_bytes: int, outbox: Outbox | None = None) -> None:
        """`max_bytes`: of the file, its log and its journal together. Counters are retained whatever the limits.
        `outbox`: what of the writes is to be delivered; None while no webhook is configured.
        """
        path, limits = state_dir / FILE_NAME, RetentionLimits(max_age, max_bytes)
        journal = Journal(state_dir, limits.journal_bytes)
        self._retention = Retention(limits)
        self._database = RecoveringDatabase(path, self._retention, journal, outbox=outbox)
        self._writer = HistoryWriter(self._database, journal)
        self._reader = HistoryReader(path)

    async def restore(self) -> Restored:
        """Open the database and return what earlier processes left. Call it once, before all else."""
        self._writer.start()
        try:
            async with asyncio.timeout(_RESTORE_TIMEOUT):
                # Shielded: the time-out must not cancel the future, which the writer's thread sets later.
                return await asyncio.shield(asyncio.wrap_future(self._database.restored))
        except TimeoutError:
            return Restored(complete=False)

    async def close(self) -> None:
        """Write the rest, as far as that succeeds within five seconds."""
        await asyncio.to_thread(self._writer.close, _CLOSE_TIMEOUT)
        self._reader.close()

    # State

    @property
    def problem(self) -> str | None:
        """What is wrong, where, and what to do; None while history is written and read."""
        return self._writer.problem or self._reader.problem

    @property
    def notice(self) -> str | None:
        """What has happened to the file since the start: it was damaged, or deleted."""
        return self._database.notice

    @property
    def lost(self) -> int:
        """Events, run steps and post-mortems since the start that will never be stored. The counters have them all the
        same, unless the orchestrator ended before the database was writable again.
        """
        return self._writer.lost

    @property
    def lost_deliveries(self) -> int:
        """Deliveries of webhooks that were pruned before they succeeded: too many were pending, or for too long."""
        return self._retention.lost_deliveries

    # Writing

    def event(self, event: LifecycleEvent) -> WriteAck:
        """Store a lifecycle event under its id, or the next free one."""
        return self._writer.put(EventWrite(event), urgent=True)

    def post_mortem(self, plugin: str, generation: int, report: PostMortem) -> WriteAck:
        """Store it with the event by which this instance ended; write that first."""
        write = PostMortemWrite(text(plugin) or "", generation, encode_post_mortem(report))
        return self._writer.put(write, urgent=True)

    def run_accepted(self, run: RunRecord) -> WriteAck:
        """For an asynchronous run, await this before its caller is answered."""
        return self._writer.put(RunWrite(run))

    def run_started(self, run: RunRecord) -> WriteAck:
        """`started_at` and `generation` are known."""
        return self._writer.put(RunWrite(run))

    def run_finished(self, run: RunRecord, *, success: bool | None) -> WriteAck:
        """Call it once, whatever the outcome, and await it before the caller is answered. `success` None counts neither
        way.
        """
        return self._writer.put(RunWrite(run, success, RunState.FINISHED))

    def run_interrupted(self, run: RunRecord) -> WriteAck:
        """Its outcome will never be known."""
        state = RunState.INTERRUPTED
        return self._writer.put(RunWrite(replace(run, outcome=run.outcome or state.value), state=state))

    def delivery_attempted(self, attempt: DeliveryWrite) -> WriteAck:
        """What an attempt has made of a delivery of a webhook."""
        return self._writer.put(attempt)

    def repeat_delivery(self, delivery_id: str) -> str:
        """Have the message of a delivery delivered once more, behind all others of its webhook and plugin. Returns the
        new delivery's id; it is there after a `flush`.
        """
        new_id = deliveries.new_delivery_id()
        self._writer.put(RepeatWrite(delivery_id, new_id), urgent=True)
        return new_id

    async def flush(self) -> bool:
        """Wait until all earlier writes are in the database (True) or cannot be at present (False)."""
        return await self._writer.put(FlushBarrier(), urgent=True)

    # Reading: sees all earlier writes, unless there is a problem

    async def runs(
        self,
        *,
        plugin: str | None = None,
        state: RunState | None = None,
        before: int | None = None,
        since: datetime | None = None,
        limit: int = 100,
        among: Patterns = (),
        caller: str | None = None,
    ) -> list[RunRecord]:
        """A page, newest first. `before`: the `id` of the previous page's last run; `since`: accepted then or later;
        `among`: patterns, of plugins that one of them matches; `caller`: only its own.
        """
        return await self._read(
            partial(
                queries.runs,
                plugin=plugin,
                state=state,
                before=before,
                since=microseconds(since) if since else None,
                limit=limit,
                among=among,
                caller=caller,
            ),
            [],
        )

    async def run(self, run_id: str) -> RunRecord | None:
        return await self._read(partial(queries.run, run_id=run_id), None)

    async def events(
        self, *, plugin: str | None = None, after: int = 0, limit: int = 100, among: Patterns = ()
    ) -> list[LifecycleEvent]:
        """A page, oldest first. `after`: the id of the previous page's last event."""
        return await self._read(partial(queries.events, plugin=plugin, after=after, limit=limit, among=among), [])

    async def latest_events(
        self, limit: int = 100, *, plugin: str | None = None, before: int | None = None, among: Patterns = ()
    ) -> list[LifecycleEvent]:
        """The last ones, or the last with ids below `before`; oldest first."""
        query = partial(queries.latest_events, plugin=plugin, before=before, limit=limit, among=among)
        return await self._read(query, [])

    async def post_mortem_of(self, plugin: str, generation: int | None = None) -> PostMortem | None:
        """Of this generation, or of the last that has one."""
        query = partial(queries.post_mortem, plugin=plugin, generation=generation)
        return decode_post_mortem(await self._read(query, None))

    async def deliveries(
        self, webhook: str, *, state: DeliveryState | None = None, before: int | None = None, limit: int = 100
    ) -> list[DeliveryRecord]:
        """A page, newest first. `before`: the `id` of the previous page's last delivery."""
        query = partial(deliveries.deliveries, webhook=webhook, state=state, before=before, limit=limit)
        return await self._read(query, [])

    async def delivery(self, webhook: str, delivery_id: str) -> DeliveryRecord | None:
        return await self._read(partial(deliveries.delivery, webhook=webhook, delivery_id=delivery_id), None)

    async def delivery_counts(self) -> dict[str, DeliveryCounts]:
        """Of the deliveries on file, by webhook."""
        return await self._read(deliveries.counts, {})

    async def deliveries_waiting(self) -> list[tuple[str, str, int]] | None:
        """Each webhook and plugin with a pending delivery, and the highest id of those, as far as the database has
        them; None where it cannot be read.
        """
        return await self._reader.read(deliveries.waiting, None)

    async def deliveries_pending(
        self, webhook: str, plugin: str, *, after: int, limit: int
    ) -> list[DeliveryRecord] | None:
        """The oldest with an id above `after`, as far as the database has them; None where it cannot be read."""
        query = partial(deliveries.pending, webhook=webhook, plugin=plugin, after=after, limit=limit)
        return await self._reader.read(query, None)

    async def _read(self, query: Query[_T], default: _T) -> _T:
        # Else a caller would miss the run whose id it has just received.
        if self._writer.is_behind:
            await self.flush()
        return await self._reader.read(query, default)
