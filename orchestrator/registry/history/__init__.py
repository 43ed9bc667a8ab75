"""History: events, runs and counters that outlive the orchestrator, in one SQLite file, and in journals until it has
them. Must not know: HTTP, engines, the registry's lock. It never fails its callers: what cannot be stored is counted,
and `HistoryStore.problem` says why.

The life of a write: `store` makes it a value (`writes`), `writer` appends it to the `journal`, which is enough to
acknowledge it, and queues it (`write_queue`). A few times a second the writer's thread commits the queue in batches to
the `database`, through `recovering_database`, which copes with a missing, damaged or locked file; then the journal
deletes what is committed. A start replays the journals that a killed orchestrator left. Reads (`queries`) go beside the
writer, once it has caught up.
"""

# Own code: plain SQLite costs each run a transaction and two thread switches, aiosqlite two more a statement; alembic
# and yoyo bring an SQL toolkit or tables of their own, for twenty lines with `PRAGMA user_version`.

from orchestrator.registry.history.records import (
    Counters,
    DeliveryRecord,
    DeliveryState,
    NewDelivery,
    Restored,
    RunRecord,
    RunState,
)
from orchestrator.registry.history.store import HistoryStore

__all__ = [
    "Counters",
    "DeliveryRecord",
    "DeliveryState",
    "HistoryStore",
    "NewDelivery",
    "Restored",
    "RunRecord",
    "RunState",
]
