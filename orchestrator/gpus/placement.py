"""Which devices a demand gets, and why a device is none for it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from orchestrator.formatting import gib
from orchestrator.gpus.claims import Claim, GpuDemand, Phase
from orchestrator.gpus.inventory import GpuDevice


@dataclass(frozen=True, slots=True)
class Place:
    """A device and who is on it. `device` is None where the last look did not find it.

    `claims` are those on the device itself, `relatives` those on the GPU that it is a part of, or on its parts.
    `baseline`: bytes that were in use before the first of the claims.
    """

    uuid: str
    device: GpuDevice | None
    claims: tuple[Claim, ...] = ()
    relatives: tuple[Claim, ...] = ()
    baseline: int | None = None

    @property
    def available(self) -> int | None:
        """Bytes that nobody uses or has been promised; None where the driver does not tell."""
        device = self.device
        if device is None or device.memory_total is None:
            return None
        promised = sum(claim.memory or 0 for claim in self.claims) + (self.baseline or 0)
        return max(0, device.memory_total - max(promised, device.memory_used or 0))


def choose(demand: GpuDemand, places: Sequence[Place]) -> tuple[Place, ...] | None:
    """The devices for `demand`, or None where too few suit it.

    The smallest that suffice, so that small slices go before whole GPUs; what shares goes where others share already,
    so that whole GPUs stay whole.
    """
    suitable = sorted((place for place in places if why_not(demand, place) is None), key=_rank)
    return tuple(suitable[: demand.count]) if len(suitable) >= demand.count else None


def why_not(demand: GpuDemand, place: Place) -> str | None:
    """Why this device is none for `demand`, as a sentence that begins with its name goes on; None where it is one."""
    device = place.device
    if device is None:
        return "is not there"
    if device.fault is not None:
        return f"is out of order ({device.fault.said})"
    if device.mig_enabled:
        return "is split into MIG instances and only they can be had"
    if device.parent_uuid is not None and demand.count > 1:
        return "is a MIG instance, of which a program can use only one"
    for claim in (*place.claims, *place.relatives):
        if claim.blocks_others or demand.alone or claim in place.relatives:
            return _taken_by(claim)
    return _too_little_memory(demand, place)


def _too_little_memory(demand: GpuDemand, place: Place) -> str | None:
    if demand.memory is None:
        return None
    available = place.available
    if available is None:
        return None if demand.alone else "does not tell how much memory it has, so it cannot be shared"
    if demand.memory <= available:
        return None
    beside = f" beside {', '.join(sorted({claim.plugin for claim in place.claims}))}" if place.claims else ""
    total = place.device.memory_total if place.device else None
    return f"has {gib(available)} of its {gib(total or 0)} free{beside}"


def _taken_by(claim: Claim) -> str:
    match claim.phase:
        case Phase.HELD:
            return f"is {'held' if claim.sharing == 'exclusive' else 'shared'} by the plugin {claim.plugin}"
        case Phase.DRAINING:
            return f"is being given back by the plugin {claim.plugin}"
        case Phase.QUARANTINED:
            return f"is quarantined, since the memory that the plugin {claim.plugin} used did not come back"


def _rank(place: Place) -> tuple[float, ...]:
    device = place.device
    if device is None:
        return (inf,)
    return (
        0 if place.claims else 1,
        inf if device.memory_total is None else device.memory_total,
        device.memory_used or 0,
        device.index,
        device.mig_index or 0,
    )
