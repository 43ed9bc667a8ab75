"""HistoryStore: what the other parts know of the history."""

import asyncio
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from orchestrator.registry.history import queries
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.keeper import Keeper
from orchestrator.registry.history.post_mortems import decoded, encoded
from orchestrator.registry.history.problems import FILE_NAME
from orchestrator.registry.history.reader import Query, Reader
from orchestrator.registry.history.receipts import Receipt
from orchestrator.registry.history.records import Restored, RunRecord, RunState
from orchestrator.registry.history.retention import Limits, Retention
from orchestrator.registry.history.rows import microseconds, text
from orchestrator.registry.history.writer import Writer
from orchestrator.registry.history.writes import EventWrite, Mark, PostMortemWrite, RunWrite
from orchestrator.registry.records import LifecycleEvent, PostMortem

_OPENING_PATIENCE: Final = 30.0
_CLOSING_PATIENCE: Final = 5.0
"""Seconds."""

_T = TypeVar("_T")


class HistoryStore:
    """Events, runs and counters in `<state_dir>/history.sqlite3`.

    Writes are taken in the order of the calls, from any thread, and return at once with a receipt: `await` it where
    the write must be kept before things go on (it is True then, and False when it is not, or not within two seconds),
    leave it alone otherwise. What is kept outlives SIGKILL at any moment. As a rule it is when the call returns, in
    the journal, and within a second in the file; where the journal cannot be had, the receipt waits for the file. What
    is kept may still be dropped where the file stays unwritable until the backlog is full (see `lost`). No call ever
    raises.

    The journal is written on the caller's thread, and waits for the disk: on a file system that hangs wholly (a hard
    NFS mount, a frozen disk) it holds the event loop. So `state_dir` should be on a local disk.
    """

    def __init__(self, state_dir: Path, *, max_age: timedelta, max_bytes: int) -> None:
        """`max_bytes` of the file, its log and its journal together; counters are kept whatever the limits."""
        path, limits = state_dir / FILE_NAME, Limits(max_age, max_bytes)
        journal = Journal(state_dir, limits.journal_bytes)
        self._keeper = Keeper(path, Retention(limits), journal)
        self._writer = Writer(self._keeper, journal)
        self._reader = Reader(path)

    async def restore(self) -> Restored:
        """Open the file and tell what the time before left behind. Call it once, before anything else."""
        self._writer.start()
        try:
            async with asyncio.timeout(_OPENING_PATIENCE):
                return await asyncio.shield(asyncio.wrap_future(self._keeper.restored))
        except TimeoutError:
            return Restored(complete=False)

    async def close(self) -> None:
        """Write what is left, as far as that can be done within five seconds."""
        await asyncio.to_thread(self._writer.close, _CLOSING_PATIENCE)
        self._reader.close()

    # How it is

    @property
    def problem(self) -> str | None:
        """What is wrong, where, and what to do; None while history is kept."""
        return self._writer.problem or self._reader.problem

    @property
    def notice(self) -> str | None:
        """What was done to the file since the start that an operator should know of: it was damaged, or deleted."""
        return self._keeper.notice

    @property
    def lost(self) -> int:
        """Events, run steps and post-mortems since the start that are not kept and will not be; some may have been in
        the journal, and made way when the backlog was full. Their counts are kept, in the counters, unless the
        orchestrator ended before the history was written again.
        """
        return self._writer.lost

    # Writing

    def event(self, event: LifecycleEvent) -> Receipt:
        """Keep a lifecycle event under its id, or the next that is free."""
        return self._writer.put(EventWrite(event), urgent=True)

    def post_mortem(self, plugin: str, generation: int, report: PostMortem) -> Receipt:
        """Keep it with the event by which this instance ended, which was handed in before."""
        return self._writer.put(PostMortemWrite(text(plugin) or "", generation, encoded(report)), urgent=True)

    def run_accepted(self, run: RunRecord) -> Receipt:
        """A run is there, and perhaps waits. For an asynchronous one, await this before its caller is told."""
        return self._writer.put(RunWrite(run))

    def run_started(self, run: RunRecord) -> Receipt:
        """It executes: `started_at` and `generation` are known."""
        return self._writer.put(RunWrite(run))

    def run_finished(self, run: RunRecord, *, success: bool | None) -> Receipt:
        """It has ended, whatever its outcome; the record holds all that is known. `success` None counts neither way.
        Await this before its caller is answered. A run is finished once.
        """
        return self._writer.put(RunWrite(run, success, RunState.FINISHED))

    def run_interrupted(self, run: RunRecord) -> Receipt:
        """Nobody will ever know what became of it."""
        state = RunState.INTERRUPTED
        return self._writer.put(RunWrite(replace(run, outcome=run.outcome or state.value), state=state))

    async def flush(self) -> bool:
        """Returns when all that was handed in before is in the file (True) or is not going to be at once (False)."""
        return await self._writer.put(Mark(), urgent=True)

    # Reading; what was handed in before is seen, unless there is a problem

    async def runs(
        self,
        *,
        plugin: str | None = None,
        state: RunState | None = None,
        before: int | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """A page, newest first; `before`: the `id` of the last one of the page before; `since`: accepted then or
        later.
        """
        return await self._ask(
            partial(
                queries.runs,
                plugin=plugin,
                state=state,
                before=before,
                since=microseconds(since) if since else None,
                limit=limit,
            ),
            [],
        )

    async def run(self, run_id: str) -> RunRecord | None:
        return await self._ask(partial(queries.run, run_id=run_id), None)

    async def events(self, *, plugin: str | None = None, after: int = 0, limit: int = 100) -> list[LifecycleEvent]:
        """A page, oldest first; `after`: the id of the last one of the page before."""
        return await self._ask(partial(queries.events, plugin=plugin, after=after, limit=limit), [])

    async def latest_events(
        self, limit: int = 100, *, plugin: str | None = None, before: int | None = None
    ) -> list[LifecycleEvent]:
        """The last ones, or the last with ids below `before`; oldest first."""
        question = partial(queries.latest_events, plugin=plugin, before=before, limit=limit)
        return await self._ask(question, [])

    async def post_mortem_of(self, plugin: str, generation: int | None = None) -> PostMortem | None:
        """Of this generation, or of the last that has one."""
        return decoded(await self._ask(partial(queries.post_mortem, plugin=plugin, generation=generation), None))

    async def _ask(self, query: Query[_T], default: _T) -> _T:
        if self._writer.behind:
            await self.flush()
        return await self._reader.ask(query, default)
