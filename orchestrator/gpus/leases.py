"""LeaseBook: who may use which GPU. Pure and synchronous; time and looks are handed in. Not for several threads.

A lease ends in two steps: its container is gone (`release`), and a look that began after that finds the device's memory
back where it was before the lease (`observe`). Where it does not come back in time the device is quarantined, until it
does or an operator says so (`clear`).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from orchestrator.gpus.claims import Claim, GpuDemand, Grant, Phase
from orchestrator.gpus.inventory import GpuInventory, GpuProblem
from orchestrator.gpus.lease_report import free_sentence, place_report, quarantine_sentence, refusal
from orchestrator.gpus.placement import Place, choose
from orchestrator.lifecycle import ReasonCode

DRAIN_PATIENCE: Final = 30.0
"""Seconds from a container's end until its GPU is quarantined. The driver frees memory within one or two of them."""
SLACK: Final = 64 * 1024**2
"""Bytes above the baseline that still count as back: less than any CUDA context takes, more than the driver's own
figures sway.
"""


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """What a look brought about: a device that is `free` again, or `quarantined`."""

    uuid: str
    plugin: str
    now: Literal["free", "quarantined"]
    sentence: str


class LeaseBook:
    """Exclusive use means: no other claim on the device, on the GPU that it is a part of, or on its parts."""

    def __init__(self, *, patience: float = DRAIN_PATIENCE, slack: int = SLACK) -> None:
        self._patience = patience
        self._slack = slack
        self._claims: dict[tuple[str, str], Claim] = {}
        self._baselines: dict[str, int | None] = {}
        self._parents: dict[str, str] = {}
        self._inventory: GpuInventory | None = None

    # Questions

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(self._claims.values())

    @property
    def unsettled(self) -> bool:
        """Something waits for its memory: look again soon."""
        return any(claim.phase is not Phase.HELD for claim in self._claims.values())

    def grant_of(self, holder: str) -> Grant | None:
        """What this instance holds now; None for one that holds nothing, or whose container is gone."""
        held = [claim for claim in self._of(holder) if claim.phase is Phase.HELD]
        return self._as_grant(held) if held else None

    def quarantines(self) -> tuple[str, ...]:
        """A sentence a quarantined device, for the health API."""
        return tuple(
            quarantine_sentence(claim, self._place(claim.uuid))
            for claim in self._claims.values()
            if claim.phase is Phase.QUARANTINED
        )

    def report(self) -> dict[str, dict[str, Any]]:
        """UUID → its leases, as the API shows them; devices that are leased and not there any more included."""
        devices = self._inventory.devices if self._inventory else ()
        uuids = dict.fromkeys([device.uuid for device in devices] + [claim.uuid for claim in self._claims.values()])
        return {uuid: place_report(self._place(uuid)) for uuid in uuids}

    # What happens

    def observe(self, inventory: GpuInventory, now: float) -> tuple[LeaseChange, ...]:
        """Take in a look. One that is older than the last is left out. `now`: monotonic clock, seconds."""
        if self._inventory is None or inventory.began >= self._inventory.began:
            self._inventory = inventory
            self._parents |= {d.uuid: d.parent_uuid for d in inventory.devices if d.parent_uuid is not None}
        leaving = defaultdict(list)
        for claim in self._claims.values():
            if claim.phase is not Phase.HELD:
                leaving[claim.uuid].append(claim)
        return tuple(change for uuid, claims in leaving.items() for change in self._settle(uuid, claims, now))

    def grant(self, holder: str, plugin: str, demand: GpuDemand) -> Grant | GpuProblem:
        """Devices for a new instance, by what the last look saw; or why there are none. Asked again for a holder that
        has devices it answers the same ones.
        """
        if (held := self.grant_of(holder)) is not None:
            return held
        if self._of(holder):
            return GpuProblem(
                ReasonCode.GPU_BUSY, "This instance has given its GPUs back; a restart makes one that can have some."
            )
        if self._inventory is None:
            return GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The host's GPUs have not been looked at yet; try again.")
        if self._inventory.problem is not None:
            return self._inventory.problem
        places = [self._place(device.uuid) for device in self._inventory.devices]
        chosen = choose(demand, places)
        if chosen is None:
            return GpuProblem(ReasonCode.GPU_BUSY, refusal(demand, places))
        for place in chosen:
            uuid = place.uuid
            self._baselines.setdefault(uuid, place.device.memory_used if place.device else None)
            self._put(Claim(holder, plugin, uuid, "exclusive" if demand.alone else "shared", demand.memory))
        return self._as_grant(self._of(holder))

    def release(self, holder: str, now: float) -> bool:
        """The container of this instance is gone, or was never made. False for a holder that has nothing: nothing
        changes then. Said again it changes nothing either.
        """
        claims = self._of(holder)
        for claim in claims:
            if claim.phase is Phase.HELD:
                self._put(replace(claim, phase=Phase.DRAINING, since=now))
        return bool(claims)

    def adopt(self, grant: Grant) -> bool:
        """Take up again what a running container says it was granted. False where somebody else has one of its
        devices: two containers run on it, and this one has to go. Adopted again it changes nothing.
        """
        if any(self._in_the_way(grant, uuid) for uuid in grant.uuids):
            return False
        self._parents |= grant.parents
        for uuid in grant.uuids:
            self._baselines.setdefault(uuid, grant.baselines.get(uuid))
            self._put(Claim(grant.holder, grant.plugin, uuid, grant.sharing, grant.memory))
        return True

    def clear(self, uuid: str) -> bool:
        """An operator takes the device out of quarantine, whatever its memory. False where it is in none."""
        quarantined = [c for c in self._claims.values() if c.uuid == uuid and c.phase is Phase.QUARANTINED]
        self._drop(quarantined)
        return bool(quarantined)

    # Inside

    def _settle(self, uuid: str, leaving: list[Claim], now: float) -> Iterable[LeaseChange]:
        began = self._inventory.began if self._inventory else 0.0
        gone = [claim for claim in leaving if claim.since < began]
        if gone and self._memory_is_back(self._place(uuid)):
            self._drop(gone)
            yield from (LeaseChange(uuid, claim.plugin, "free", free_sentence(claim)) for claim in gone)
            return
        for claim in leaving:
            if claim.phase is Phase.DRAINING and now - claim.since > self._patience:
                quarantined = replace(claim, phase=Phase.QUARANTINED, since=now)
                self._put(quarantined)
                sentence = quarantine_sentence(quarantined, self._place(uuid))
                yield LeaseChange(uuid, claim.plugin, "quarantined", sentence)

    def _memory_is_back(self, place: Place) -> bool:
        device = place.device
        if device is None or device.fault is not None:
            return False
        if place.baseline is None:
            return True  # nothing to compare with: the container's end is all that can be known
        staying = sum(claim.memory or 0 for claim in place.claims if claim.phase is Phase.HELD)
        return device.memory_used is not None and device.memory_used <= place.baseline + staying + self._slack

    def _place(self, uuid: str) -> Place:
        claims = self._claims.values()
        return Place(
            uuid,
            self._inventory.find(uuid) if self._inventory else None,
            claims=tuple(claim for claim in claims if claim.uuid == uuid),
            relatives=tuple(claim for claim in claims if self._related(claim.uuid, uuid)),
            baseline=self._baselines.get(uuid),
        )

    def _in_the_way(self, grant: Grant, uuid: str) -> bool:
        others = [claim for claim in self._claims.values() if claim.holder != grant.holder]
        return any(
            self._related(claim.uuid, uuid)
            or (claim.uuid == uuid and (grant.sharing == "exclusive" or claim.sharing == "exclusive"))
            for claim in others
        )

    def _related(self, one: str, other: str) -> bool:
        return self._parents.get(one) == other or self._parents.get(other) == one

    def _of(self, holder: str) -> list[Claim]:
        return [claim for claim in self._claims.values() if claim.holder == holder]

    def _put(self, claim: Claim) -> None:
        self._claims[claim.holder, claim.uuid] = claim

    def _drop(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            del self._claims[claim.holder, claim.uuid]
        in_use = {claim.uuid for claim in self._claims.values()}
        self._baselines = {uuid: value for uuid, value in self._baselines.items() if uuid in in_use}

    def _as_grant(self, claims: list[Claim]) -> Grant:
        first = claims[0]
        uuids = tuple(claim.uuid for claim in claims)
        baselines = {uuid: self._baselines.get(uuid) for uuid in uuids}
        parents = {uuid: self._parents[uuid] for uuid in uuids if uuid in self._parents}
        return Grant(first.holder, first.plugin, uuids, first.sharing, first.memory, baselines, parents)
