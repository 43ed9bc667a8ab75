"""What journals of earlier lives hold and the history file does not: taken in at the start."""

import logging
from typing import Final

from orchestrator.registry.history import groups, lines
from orchestrator.registry.history.backlog import Entry, Group
from orchestrator.registry.history.journal import Journal, Leftover
from orchestrator.registry.history.ledger import Ledger
from orchestrator.registry.history.receipts import KEPT

_GROUP: Final = 256
"""Writes of a transaction."""

_log = logging.getLogger(__name__)


def take_in(ledger: Ledger, journal: Journal) -> str | None:
    """Write what was left into the file, each write once, and delete the leftovers. Returns a sentence for the
    operator where something of them could not be read. Raises what the history file or its disk is to blame for; the
    next attempt goes on from there.
    """
    unread = 0
    for leftover in journal.leftovers():
        try:
            left = lines.read(leftover.path.read_bytes())
        except OSError as error:
            _log.warning("%s cannot be read (%s)", leftover.path, error)
            unread += 1
            continue
        _write(ledger, leftover, left)
        unread += left.damaged
        if left.damaged:
            _log.warning("%d lines of %s are damaged", left.damaged, leftover.path)
        try:
            journal.discard(leftover)
        except OSError as error:
            _log.warning("%s cannot be deleted (%s)", leftover.path, error)
    ledger.keep_journals({journal.id, *(leftover.journal for leftover in journal.leftovers())})
    if not unread:
        return None
    return "Something of the history's journal could not be read: some of the last runs and events are lost."


def _write(ledger: Ledger, leftover: Leftover, left: lines.Lines) -> None:
    applied = ledger.applied(leftover.journal)
    entries = [Entry(write, KEPT, number) for number, write in left.writes if number > applied]
    for first in range(0, len(entries), _GROUP):
        page = entries[first : first + _GROUP]
        written = groups.commit(ledger, Group(page, through=page[-1].number), leftover.journal)
        if written.fault is not None:
            raise written.fault
    if entries:
        _log.info("%d writes of %s were not in the history file yet", len(entries), leftover.path.name)
