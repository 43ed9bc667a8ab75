"""Parking: which instances are stopped while nobody needs them, and which make room for a plugin that waits. Pure.

Two rules protect an instance, one protects who waits:

- residence: it stays twice as long as its start took, so that at most a third of a GPU's time is spent on starts;
- rest: it stays as long after its last run as its start takes: waiting that long costs no more than bringing it back;
- patience: once a plugin has waited so long, the rest counts no more, and an instance that is never without a run is
  closed: runs that it has and that wait for it are executed, those that come later wait for the plugin's next one.

Of what may be parked, the instances are chosen whose starts took least, times their plugin's recent runs.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Literal

from orchestrator.gpus.claims import GpuDemand
from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings
from orchestrator.supervisor.room import Claim, Holder, Room, Space, Weight, cheapest_room

UNKNOWN_START: Final = 10.0
"""Seconds that the start of a plugin is taken for which none was measured."""
MIN_RESIDENCE: Final = 2.0
MAX_RESIDENCE: Final = 60.0
"""Seconds; else callers with the default timeout would never see a plugin that waits for one with a slow start."""
PATIENCE: Final = 30.0
"""Seconds that a plugin waits for an instance to be idle before it is given one's room nevertheless."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that may be granted. `memory`: its bytes without what other programs had before the first lease, None where
    the driver does not say; `single`: a MIG instance; `rank`: of several that would do, the lowest is taken.
    """

    uuid: str
    memory: int | None = None
    single: bool = False
    rank: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """An instance with GPUs, from its grant to the end of its lease. `closing`: it takes no new runs, or has ended, and
    its lease will end without anything more being done. `memory`: its budget on each GPU, None for all of it.
    """

    plugin: str
    generation: int
    uuids: tuple[str, ...]
    memory: int | None = None
    state: Literal["starting", "ready", "closing"] = "ready"
    in_flight: int = 0
    queued: int = 0
    """Runs that wait for the plugin."""
    granted_at: float = 0.0
    ready_at: float | None = None
    used_at: float | None = None
    """End of its last run."""
    start_seconds: float | None = None
    """As measured at its plugin's last start."""
    recent_runs: float = 0.0
    """Its plugin's, by `RecentUse`."""
    keep: bool = False

    @property
    def holder(self) -> Holder:
        return self.plugin, self.generation

    @property
    def busy(self) -> bool:
        return self.state == "starting" or self.in_flight > 0 or self.queued > 0

    @property
    def start(self) -> float:
        return UNKNOWN_START if self.start_seconds is None else self.start_seconds

    @property
    def resident_until(self) -> float:
        ready = self.granted_at + self.start if self.ready_at is None else self.ready_at
        return ready + min(MAX_RESIDENCE, max(MIN_RESIDENCE, 2 * self.start))

    @property
    def rested_at(self) -> float:
        return inf if self.busy else max(self.resident_until, (self.used_at or -inf) + self.start)


@dataclass(frozen=True, slots=True)
class Need:
    """An instance that has no GPUs yet. `waiting`: runs that wait for its plugin, or an operator's command; where it is
    0 nobody is parked for it. `since`: when the first of them came.
    """

    plugin: str
    demand: GpuDemand
    since: float
    waiting: int = 1
    start_seconds: float | None = None
    generation: int = 0

    @property
    def holder(self) -> Holder:
        return self.plugin, self.generation

    @property
    def patient_until(self) -> float:
        return self.since + PATIENCE


@dataclass(frozen=True, slots=True)
class Start:
    """It fits now, on these GPUs."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """It fits on these GPUs once the instances are gone: close them now; each is stopped when its runs have ended."""

    holders: tuple[Holder, ...]
    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Plan again at `until`, or when something changes. `behind`: the plugins whose GPUs it will get, none where nobody
    waits for it, or where others come first.
    """

    until: float
    behind: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Impossible:
    """Nothing that may be parked would make room. `kept`: plugins that are in the way and are kept, if it is them."""

    kept: tuple[str, ...] = ()


Answer = Start | Park | Wait | Impossible


def starts_uncalled(manifest: Manifest, settings: Settings) -> bool:
    """Whether the orchestrator's own start begins an instance of this plugin before anybody calls it."""
    return not (settings.parked and manifest.may_be_parked)


def plan_room(
    gpus: Sequence[Gpu], tenants: Sequence[Tenant], needs: Sequence[Need], now: float
) -> tuple[tuple[Need, Answer], ...]:
    """What each need gets, in the order in which they are served. What an earlier one gets, a later one cannot.

    To be asked again when a need is new, an instance is ready or without a run or its lease is over, a GPU is found or
    lost, and when the first `Wait` is over.
    """
    answers: list[tuple[Need, Answer]] = []
    host = _Host(gpus, tenants)
    for need in sorted(needs, key=lambda each: _turn(each, now)):
        answer, uuids = _answer(host, need, now)
        answers.append((need, answer))
        host.reserve(need, uuids, answer.holders if isinstance(answer, Park) else ())
    return tuple(answers)


def _turn(need: Need, now: float) -> tuple[int, float, float, str, int]:
    """Those whose patience is over come first, the oldest of them before the others. Then the one with most runs
    waiting for each second that its start takes: a start answers all of them.
    """
    overdue = need.waiting > 0 and now >= need.patient_until
    start = UNKNOWN_START if need.start_seconds is None else need.start_seconds
    first = (0, need.since, 0.0) if overdue else (1, -need.waiting / max(start, 0.1), need.since)
    return (*first, *need.holder)


def _answer(host: "_Host", need: Need, now: float) -> tuple[Answer, tuple[str, ...]]:
    """The answer, and the GPUs that are reserved with it."""
    if (room := host.room(need)) is not None:
        return Start(room.uuids), room.uuids
    if (room := host.room(need, gone=True)) is not None:
        return Wait(inf, host.leaving), room.uuids
    if need.waiting == 0:
        return _without_promises(host, need), ()
    others = [tenant for tenant in host.staying if tenant.plugin != need.plugin and not tenant.keep]
    eligible = sorted((_eligible_at(tenant, need, now), tenant.holder) for tenant in others)
    for moment in sorted({max(at, now) for at, _ in eligible}):
        room = host.room(need, {holder for at, holder in eligible if at <= moment}, gone=True)
        if room is not None and moment <= now:
            return Park(tuple(sorted(room.without)), room.uuids), room.uuids
        if room is not None:
            # Kept free for who has waited long: else one that needs several GPUs would never find them free together.
            reserved = room.uuids if now >= need.patient_until else ()
            return Wait(moment, _plugins(room.without)), reserved
    return _without_promises(host, need), ()


def _without_promises(host: "_Host", need: Need) -> Wait | Impossible:
    """What is left to say where no instance that may be parked makes room beside what others were promised."""
    others = {tenant.holder for tenant in host.tenants if tenant.plugin != need.plugin}
    kept = {tenant.holder for tenant in host.tenants if tenant.keep}
    if host.room(need, others - kept, gone=True, promises=False) is not None:
        return Wait(inf, ())
    room = host.room(need, others, gone=True, promises=False)
    return Impossible(_plugins(room.without & kept) if room is not None else ())


def _plugins(holders: Iterable[Holder]) -> tuple[str, ...]:
    return tuple(sorted({plugin for plugin, _ in holders}))


def _eligible_at(tenant: Tenant, need: Need, now: float) -> float:
    insisted = max(tenant.resident_until, need.patient_until)
    # Where it takes longer than it took last time, when it will be ready is not known.
    return max(insisted, now + MIN_RESIDENCE) if tenant.state == "starting" else min(tenant.rested_at, insisted)


class _Host:
    """The GPUs as a need finds them: with what needs before it were promised, and whom they had parked."""

    def __init__(self, gpus: Sequence[Gpu], tenants: Sequence[Tenant]) -> None:
        self.tenants = sorted(tenants, key=lambda each: each.holder)  # of what costs the same, the first is taken
        self.staying = [tenant for tenant in self.tenants if tenant.state != "closing"]
        self._leaving = [tenant for tenant in self.tenants if tenant.state == "closing"]
        self._gpus = gpus
        self._reserved: dict[str, list[Claim]] = {gpu.uuid: [] for gpu in gpus}
        self._found: dict[tuple[bool, bool], Sequence[tuple[Gpu, Sequence[Claim]]]] = {}
        self._weights = {tenant.holder: _weight(tenant) for tenant in tenants}

    @property
    def leaving(self) -> tuple[str, ...]:
        return _plugins(tenant.holder for tenant in self._leaving)

    def reserve(self, need: Need, uuids: Iterable[str], parked: Collection[Holder]) -> None:
        for uuid in uuids:
            self._reserved[uuid].append(Claim(need.holder, None if need.demand.exclusive else need.demand.memory))
        self._found.clear()
        self._leaving += [tenant for tenant in self.staying if tenant.holder in parked]
        self.staying = [tenant for tenant in self.staying if tenant.holder not in parked]

    def room(
        self, need: Need, removable: Collection[Holder] = (), *, gone: bool = False, promises: bool = True
    ) -> Room | None:
        """`gone`: as if those that are leaving were; not `promises`: as if nothing was promised to others."""
        spaces = [
            Space(
                gpu.uuid,
                gpu.memory,
                gpu.single,
                tuple(claim for claim in claims if claim.holder not in removable),
                tuple(claim for claim in claims if claim.holder in removable),
            )
            for gpu, claims in sorted(self._claimed(gone=gone, promises=promises), key=lambda each: _own(need, each[1]))
        ]
        return cheapest_room(need.demand, spaces, self._weights)

    def _claimed(self, *, gone: bool, promises: bool) -> Sequence[tuple[Gpu, Sequence[Claim]]]:
        """Each GPU with the claims on it, in the order in which a lease is placed."""
        if (found := self._found.get((gone, promises))) is not None:
            return found
        claims = {gpu.uuid: list(self._reserved[gpu.uuid]) if promises else [] for gpu in self._gpus}
        for tenant in self.staying if gone else [*self.staying, *self._leaving]:
            for uuid in tenant.uuids:
                if uuid in claims:
                    claims[uuid].append(Claim(tenant.holder, tenant.memory))
        # Where others share already, then the smallest.
        order = sorted(
            self._gpus, key=lambda each: (not claims[each.uuid], each.rank or (each.memory or inf,), each.uuid)
        )
        found = self._found[gone, promises] = [(gpu, claims[gpu.uuid]) for gpu in order]
        return found


def _own(need: Need, claims: Sequence[Claim]) -> int:
    """A plugin's own instances on a GPU: first where fewest are, or most (`spread: pack`)."""
    own = sum(claim.holder is not None and claim.holder[0] == need.plugin for claim in claims)
    return own if need.demand.spread == "gpu" else -own


def _weight(tenant: Tenant) -> Weight:
    return (float(tenant.busy), tenant.start * tenant.recent_runs, 1.0, tenant.used_at or tenant.ready_at or 0.0)
