"""Room on GPUs: the cheapest set of instances without which a demand fits. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from orchestrator.gpus.claims import GpuDemand

Holder = tuple[str, int]
"""A plugin's name and the generation of its instance."""
Weight = tuple[float, ...]
"""What it costs to remove a holder; the sum over a set is taken place by place, and compared from the left."""

# Up to these the answer is exact. Hosts have at most 16 GPUs, and few plugins on each.
_MAX_SUBSETS_OF: Final = 10
_MAX_STEPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Claim:
    """What a holder has of one GPU: `memory` bytes, None for all of it."""

    holder: Holder | None
    memory: int | None


@dataclass(frozen=True, slots=True)
class Space:
    """A GPU. `memory`: bytes that plugins may have of it, None where unknown; `single`: it is of no use beside another
    (a MIG instance); `fixed`: claims that stay; `removable`: claims that may be removed.
    """

    uuid: str
    memory: int | None = None
    single: bool = False
    fixed: tuple[Claim, ...] = ()
    removable: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """GPUs on which a demand fits once the holders in `without` are removed."""

    uuids: tuple[str, ...]
    without: frozenset[Holder] = frozenset()


def cheapest_room(demand: GpuDemand, spaces: Sequence[Space], weights: Mapping[Holder, Weight]) -> Room | None:
    """The room whose holders to remove weigh least together; None where the demand fits on none. Of two that weigh the
    same, the one on the earlier spaces. No holder is removed without need.
    """
    options = [
        (space, sorted(_options(demand, space, weights), key=lambda each: _weigh(each, weights))) for space in spaces
    ]
    if sum(1 for _, sets in options if sets) < demand.count:
        return None
    # The cheapest first: then the first room that the search finds is a good one, and bounds the rest.
    usable = sorted(((space, sets) for space, sets in options if sets), key=lambda each: _weigh(each[1][0], weights))
    search = _Search(demand.count, usable, weights)
    search.descend(0, (), frozenset())
    return search.best


class _Search:
    """Depth-first, with the best room so far as the bound."""

    def __init__(
        self,
        count: int,
        usable: Sequence[tuple[Space, Sequence[frozenset[Holder]]]],
        weights: Mapping[Holder, Weight],
    ) -> None:
        self.best: Room | None = None
        self._count = count
        self._usable = usable
        self._weights = weights
        self._weight: Weight = ()
        self._steps = 0

    def descend(self, index: int, uuids: tuple[str, ...], removed: frozenset[Holder]) -> None:
        self._steps += 1
        weight = _weigh(removed, self._weights)
        if self.best is not None and (weight >= self._weight or self._steps > _MAX_STEPS):
            return
        if len(uuids) == self._count:
            self.best, self._weight = Room(uuids, removed), weight
            return
        for at in range(index, len(self._usable) - (self._count - len(uuids)) + 1):
            space, sets = self._usable[at]
            for each in sets:
                self.descend(at + 1, (*uuids, space.uuid), removed | each)


def _weigh(holders: frozenset[Holder], weights: Mapping[Holder, Weight]) -> Weight:
    if not holders:
        return (0.0,)
    return tuple(sum(column) for column in zip(*(weights[holder] for holder in sorted(holders)), strict=True))


def _options(demand: GpuDemand, space: Space, weights: Mapping[Holder, Weight]) -> Iterator[frozenset[Holder]]:
    """The smallest sets of holders without which this space suits the demand."""
    if space.single and demand.count > 1:
        return
    if demand.exclusive:
        too_small = demand.memory is not None and space.memory is not None and demand.memory > space.memory
        if not space.fixed and not too_small:
            yield _holders(space.removable)
        return
    if space.memory is None or any(claim.memory is None for claim in space.fixed):
        return
    shared = [claim for claim in space.removable if claim.memory is not None]
    alone = _holders(claim for claim in space.removable if claim.memory is None)
    missing = (demand.memory or 0) + sum(claim.memory or 0 for claim in (*space.fixed, *shared)) - space.memory
    yield from (alone | each for each in _covers(shared, missing, weights))


def _covers(claims: Sequence[Claim], missing: int, weights: Mapping[Holder, Weight]) -> Iterator[frozenset[Holder]]:
    """The smallest sets of claims that have `missing` bytes together."""
    if missing <= 0:
        yield frozenset()
    elif len(claims) <= _MAX_SUBSETS_OF:
        found: list[frozenset[Holder]] = []
        for size in range(1, len(claims) + 1):
            for subset in combinations(claims, size):
                holders = _holders(subset)
                if sum(claim.memory or 0 for claim in subset) >= missing and not any(each < holders for each in found):
                    found.append(holders)
        yield from found
    else:
        yield from _greedy_cover(claims, missing, weights)


def _greedy_cover(
    claims: Sequence[Claim], missing: int, weights: Mapping[Holder, Weight]
) -> Iterator[frozenset[Holder]]:
    chosen: list[Claim] = []
    for claim in sorted(claims, key=lambda each: _weigh(_holders((each,)), weights)):
        if sum(each.memory or 0 for each in chosen) < missing:
            chosen.append(claim)
    if sum(each.memory or 0 for each in chosen) < missing:
        return
    for claim in tuple(reversed(chosen)):  # what a later, larger one made needless
        if sum(each.memory or 0 for each in chosen) - (claim.memory or 0) >= missing:
            chosen.remove(claim)
    yield _holders(chosen)


def _holders(claims: Iterable[Claim]) -> frozenset[Holder]:
    return frozenset(claim.holder for claim in claims if claim.holder is not None)
