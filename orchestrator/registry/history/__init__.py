"""What happened, kept over restarts: events, runs and counters in one SQLite file, and in journals until it
has them. Must not know: HTTP, engines, the registry's lock; and it never fails its callers: what cannot be kept is
counted, and `HistoryStore.problem` says why.

On the way of a write: `store` makes a value of it (`writes`), `journal` keeps it at once, as a line in a file, which is
what its receipt says; `backlog` holds it, and a few times a second `writer` (a thread) has `keeper` commit what came
together through `ledger`, after which the journal gives it up. A write that the journal cannot take waits for the
commit. A start takes in what journals were left with (`replay`); the ledger knows how far it has each, so that nothing
counts twice. Reads go another way: `reader`, beside the writer, which is made to catch up first.

Times are whole microseconds since 1970 in UTC: they compare as numbers, come back exactly as the datetimes they were,
and leave no question of zone or format. Rows are ordered by their ids only, since the wall clock may jump.

Own code: SQLite alone costs each run a transaction and two thread switches, aiosqlite two a statement besides; alembic
and yoyo bring an SQL toolkit or tables of their own for what is twenty lines with `PRAGMA user_version`.
"""

from orchestrator.registry.history.records import Counters, Restored, RunRecord, RunState
from orchestrator.registry.history.store import HistoryStore

__all__ = ["Counters", "HistoryStore", "Restored", "RunRecord", "RunState"]
