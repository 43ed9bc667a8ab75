"""A group of writes into an open ledger, such that one that cannot be taken does not take its neighbours with it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.registry.history.backlog import Entry, Group
from orchestrator.registry.history.ledger import Ledger
from orchestrator.registry.history.problems import storage_fault

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a group."""

    stored: Sequence[Entry] = ()
    refused: Sequence[Entry] = ()
    """Such as SQLite will never take; lost."""
    left: Group | None = None
    """To be tried again."""
    fault: Exception | None = None
    """Why something is left."""


def commit(ledger: Ledger, group: Group, journal: str) -> Written:
    """`journal`: the id of the one whose numbers the writes have. Raises what the file or the disk is to blame for,
    while nothing of the group is written.
    """
    try:
        ledger.commit([entry.write for entry in group.entries], group.debts or {}, (journal, group.through))
    except Exception as error:
        if storage_fault(error):
            raise
        return _one_by_one(ledger, group, journal)
    return Written(stored=group.entries)


def _one_by_one(ledger: Ledger, group: Group, journal: str) -> Written:
    before = group.entries[0].number - 1 if group.entries else group.through
    ledger.commit((), group.debts or {}, (journal, before))
    stored: list[Entry] = []
    refused: list[Entry] = []
    for number, entry in enumerate(group.entries):
        try:
            ledger.commit([entry.write], {}, (journal, entry.number))
            stored.append(entry)
        except Exception as error:  # noqa: BLE001 - sqlite3 raises many kinds for what it cannot take
            if storage_fault(error):
                return Written(stored, refused, Group(group.entries[number:], through=group.through), error)
            _log.exception("a defect in the orchestrator: history cannot take %r", entry.write)
            refused.append(entry)
    return Written(stored, refused)
