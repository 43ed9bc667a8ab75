"""Epochs of forced moves: which host is to end what was moved away from it while it was silent. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Epochs = Mapping[str, Mapping[str, Any]]
"""By plugin, the highest epoch that a host has seen: `number`, `to`, `ends`."""


def next_number(highest: int, now: float) -> int:
    """The number of the next forced move. `highest`: of the hosts that answer; `now`: seconds since 1970.

    A host that is silent may have seen a higher one: the time puts a later move after it all the same.
    """
    return max(highest + 1, int(now))


class Fenced(NamedTuple):
    """What a host is to end, and for which epoch."""

    host: str
    plugin: str
    epoch: Mapping[str, Any]


def outdated(epochs: Mapping[str, Epochs], plugins: Mapping[str, frozenset[str]]) -> list[Fenced]:
    """What is to end. `epochs`: by host, of those that answer; `plugins`: by host, those that it has.

    A plugin's newest epoch is the one with the highest number, and of two fronts' the one whose `to` is later in the
    alphabet. Who has seen it obeyed it, and what was started there since is an operator's own.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    for seen in epochs.values():
        for plugin, epoch in seen.items():
            if plugin not in newest or _rank(epoch) > _rank(newest[plugin]):
                newest[plugin] = epoch
    found = []
    for host, seen in sorted(epochs.items()):
        for plugin, epoch in sorted(newest.items()):
            own = seen.get(plugin)
            if plugin not in plugins.get(host, ()) or (own is not None and _rank(own) >= _rank(epoch)):
                continue
            # The second: two fronts moved it at the same moment, and this host lost.
            if host in epoch["ends"] or (own is not None and own["number"] == epoch["number"]):
                found.append(Fenced(host, plugin, epoch))
    return found


def _rank(epoch: Mapping[str, Any]) -> tuple[int, str]:
    return int(epoch["number"]), str(epoch["to"])
