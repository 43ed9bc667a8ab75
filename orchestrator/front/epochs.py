"""Epochs of forced moves: which host is to end what was moved away from it while it was silent. Pure."""

from collections.abc import Collection, Mapping
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
    alphabet. Who has seen it obeyed it, and what was started there since is an operator's own. A host that an earlier
    epoch names, and that was silent ever since, ends its own for the newest one.
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
            if plugin not in plugins.get(host, ()) or host == epoch["to"] or not _is_later(epoch, own):
                continue
            unseen = [each[plugin] for each in epochs.values() if plugin in each and _is_later(each[plugin], own)]
            # The second: two fronts moved it at the same moment, and this host lost.
            if any(host in each["ends"] for each in unseen) or (own and own["number"] == epoch["number"]):
                found.append(Fenced(host, plugin, _with_silent(epoch, own, epochs)))
    return found


def _with_silent(epoch: Mapping[str, Any], own: Mapping[str, Any] | None, known: Collection[str]) -> Mapping[str, Any]:
    """The epoch with the hosts that the one which it replaces names, and that are still silent."""
    names = () if own is None else [host for host in own["ends"] if host not in known and host not in epoch["ends"]]
    return {**epoch, "ends": [*epoch["ends"], *names]} if names else epoch


def _is_later(epoch: Mapping[str, Any], own: Mapping[str, Any] | None) -> bool:
    return own is None or _rank(epoch) > _rank(own)


def _rank(epoch: Mapping[str, Any]) -> tuple[int, str]:
    return int(epoch["number"]), str(epoch["to"])
