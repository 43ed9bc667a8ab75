"""Lists of several hosts in one, with a cursor for each entry from which the next page goes on. Pure."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.front.cursors import Cursor
from orchestrator.front.merging import with_host

Entry = dict[str, Any]
Pages = Mapping[str, Sequence[Mapping[str, Any]]]
"""By host, a page of its list, in that list's order."""


def events_after(pages: Pages, cursor: Cursor, hosts: Sequence[str], limit: int) -> list[Entry]:
    """The first `limit` events after `cursor`, oldest first. `pages`: of each host the events after its position."""
    return _marked(_in_order(pages, "time", newest_first=False), cursor, hosts)[:limit]


def newest_events(pages: Pages, hosts: Sequence[str], limit: int) -> list[Entry]:
    """The newest `limit` events, oldest first. `pages`: of each host the newest ones."""
    # Before the first that is known of a host come all that a reader of this page has no interest in.
    start = Cursor({host: max(0, page[0]["id"] - 1) if page else 0 for host, page in pages.items()})
    return _marked(_in_order(pages, "time", newest_first=False), start, hosts)[-limit:]


def newest_runs(pages: Pages, cursor: Cursor, hosts: Sequence[str], limit: int) -> list[Entry]:
    """The next `limit` runs, newest first. `pages`: of each host those before its position."""
    return _marked(_in_order(pages, "accepted_at", newest_first=True), cursor, hosts)[:limit]


def _in_order(pages: Pages, time: str, *, newest_first: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """By time, and each host's in its own order, whatever its clock does."""
    by_time: Callable[[tuple[str, Mapping[str, Any]]], str] = lambda entry: str(entry[1][time])  # noqa: E731
    each = [[(host, entry) for entry in page] for host, page in pages.items()]
    return heapq.merge(*each, key=by_time, reverse=newest_first)


def _marked(entries: Iterable[tuple[str, Mapping[str, Any]]], cursor: Cursor, hosts: Sequence[str]) -> list[Entry]:
    marked = []
    for host, entry in entries:
        if entry["id"]:  # a run that is not yet in the history has none
            cursor = cursor.moved(host, entry["id"])
        found: Entry = with_host(entry, host)
        # Over one host an entry's own number is the cursor.
        marked.append(found if len(hosts) == 1 else {**found, "cursor": cursor.text(hosts)})
    return marked
