"""What happened, kept over restarts: events, runs and counters in one SQLite file. Must not know: HTTP, engines, the
registry's lock; and it never fails its callers: what cannot be kept is counted, and `HistoryStore.problem` says why.

On the way of a write: `store` makes a value of it (`writes`), `backlog` holds it, `writer` (a thread) has `keeper`
commit it in a group through `ledger`, and settles its `receipts`. Reads go another way: `reader`, beside the writer.

Times are whole microseconds since 1970 in UTC: they compare as numbers, come back exactly as the datetimes they were,
and leave no question of zone or format. Rows are ordered by their ids only, since the wall clock may jump.

Own code, because aiosqlite commits one caller at a time with two thread switches per statement, and alembic and yoyo
bring an SQL toolkit or tables of their own for what is twenty lines with `PRAGMA user_version`.
"""

from orchestrator.registry.history.records import Counters, Restored, RunRecord, RunState
from orchestrator.registry.history.store import HistoryStore

__all__ = ["Counters", "HistoryStore", "Restored", "RunRecord", "RunState"]
