"""LeaseTable: which instance holds which GPU. Pure: time and inventories are passed in. Not thread-safe.

A lease ends in two steps: its container is removed (`release`), and a probe that started after that finds the device's
memory back at its level before the lease (`observe`). Where that takes too long the device is quarantined until it
does, or until an operator releases it (`release_quarantine`).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from orchestrator.formatting import gib
from orchestrator.gpus.claims import Claim, GpuDemand, Grant, Phase
from orchestrator.gpus.inventory import GpuInventory, GpuProblem
from orchestrator.gpus.placement import DeviceClaims, busy_sentence, choose
from orchestrator.lifecycle import ReasonCode

DRAIN_SECONDS: Final = 30.0
"""From a container's end until its GPU is quarantined. The driver frees memory within 1 to 2 s."""
SLACK: Final = 64 * 1024**2
"""Bytes above the baseline that still count as free: less than any CUDA context takes, more than the driver's own
figures vary.
"""
# A device's state is the first of these among its claims.
_STATES: Final = (Phase.QUARANTINED, Phase.DRAINING, Phase.HELD)


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """What a probe changed: a device is now `free`, or `quarantined`."""

    uuid: str
    plugin: str
    state: Literal["free", "quarantined"]
    sentence: str


class LeaseTable:
    """The leases of one host."""

    # Exclusive use means: no other claim on the device, on its parent GPU, or on its MIG instances.

    def __init__(self, *, drain_seconds: float = DRAIN_SECONDS, slack: int = SLACK) -> None:
        self._drain_seconds = drain_seconds
        self._slack = slack
        self._claims: dict[tuple[str, str], Claim] = {}
        self._baselines: dict[str, int | None] = {}
        self._parents: dict[str, str] = {}
        self._inventory: GpuInventory | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(self._claims.values())

    @property
    def reclaiming(self) -> bool:
        """A released device's memory is still awaited: probe again soon."""
        return any(claim.phase is not Phase.HELD for claim in self._claims.values())

    def grant_of(self, holder: str) -> Grant | None:
        """What this instance holds now; None where it holds nothing or has released it."""
        held = [claim for claim in self._of(holder) if claim.phase is Phase.HELD]
        return self._as_grant(held) if held else None

    def quarantines(self) -> tuple[str, ...]:
        """One sentence per quarantined device."""
        return tuple(
            _quarantine_sentence(claim, self._device_claims(claim.uuid))
            for claim in self._claims.values()
            if claim.phase is Phase.QUARANTINED
        )

    def report(self) -> dict[str, dict[str, Any]]:
        """UUID → its leases in the API; leased devices that were removed from the host are included."""
        devices = self._inventory.devices if self._inventory else ()
        uuids = dict.fromkeys([device.uuid for device in devices] + [claim.uuid for claim in self._claims.values()])
        return {uuid: _report(self._device_claims(uuid)) for uuid in uuids}

    def observe(self, inventory: GpuInventory, now: float) -> tuple[LeaseChange, ...]:
        """Take in a probe's inventory; one older than the last is ignored. `now`: monotonic clock, seconds."""
        if self._inventory is None or inventory.probe_started >= self._inventory.probe_started:
            self._inventory = inventory
            self._parents |= {d.uuid: d.parent_uuid for d in inventory.devices if d.parent_uuid is not None}
        leaving = defaultdict(list)
        for claim in self._claims.values():
            if claim.phase is not Phase.HELD:
                leaving[claim.uuid].append(claim)
        return tuple(change for uuid, claims in leaving.items() for change in self._settle(uuid, claims, now))

    def grant(self, holder: str, plugin: str, demand: GpuDemand) -> Grant | GpuProblem:
        """Devices for a new instance according to the last inventory, or why there are none. Idempotent per holder."""
        if (held := self.grant_of(holder)) is not None:
            return held
        if self._of(holder):
            return GpuProblem(
                ReasonCode.GPU_BUSY, "This instance has released its GPUs; restart the plugin for a new one."
            )
        if self._inventory is None:
            return GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The host's GPUs have not been probed yet; try again.")
        if self._inventory.problem is not None:
            return self._inventory.problem
        candidates = [self._device_claims(device.uuid) for device in self._inventory.devices]
        chosen = choose(demand, candidates)
        if chosen is None:
            return GpuProblem(ReasonCode.GPU_BUSY, busy_sentence(demand, candidates))
        for each in chosen:
            # Only before the first claim: later figures contain what the plugins use.
            self._baselines.setdefault(each.uuid, each.device.memory_used if each.device else None)
            self._put(Claim(holder, plugin, each.uuid, "exclusive" if demand.exclusive else "shared", demand.memory))
        return self._as_grant(self._of(holder))

    def release(self, holder: str, now: float) -> bool:
        """The instance's container is removed, or was never made. False where the holder has no claims. Idempotent."""
        claims = self._of(holder)
        for claim in claims:
            if claim.phase is Phase.HELD:
                self._put(replace(claim, phase=Phase.DRAINING, since=now))
        return bool(claims)

    def adopt(self, grant: Grant) -> bool:
        """Adopt the grant of a running container. Idempotent. False where another instance holds one of its devices:
        then the container must be removed.
        """
        if any(self._conflicts(grant, uuid) for uuid in grant.uuids):
            return False
        self._parents |= grant.parents
        for uuid in grant.uuids:
            self._baselines.setdefault(uuid, grant.baselines.get(uuid))
            self._put(Claim(grant.holder, grant.plugin, uuid, grant.sharing, grant.memory))
        return True

    def release_quarantine(self, uuid: str) -> bool:
        """An operator takes the device out of quarantine, whatever its memory. False where it is not quarantined."""
        quarantined = [c for c in self._claims.values() if c.uuid == uuid and c.phase is Phase.QUARANTINED]
        self._drop(quarantined)
        return bool(quarantined)

    def _settle(self, uuid: str, leaving: list[Claim], now: float) -> Iterable[LeaseChange]:
        probe_started = self._inventory.probe_started if self._inventory else 0.0
        # A probe that began before the container's end proves nothing about its memory.
        seen_after_end = [claim for claim in leaving if claim.since < probe_started]
        if seen_after_end and self._memory_is_free(self._device_claims(uuid)):
            self._drop(seen_after_end)
            for claim in seen_after_end:
                yield LeaseChange(uuid, claim.plugin, "free", f"The plugin {claim.plugin} has released {uuid}.")
            return
        for claim in leaving:
            if claim.phase is Phase.DRAINING and now - claim.since > self._drain_seconds:
                quarantined = replace(claim, phase=Phase.QUARANTINED, since=now)
                self._put(quarantined)
                sentence = _quarantine_sentence(quarantined, self._device_claims(uuid))
                yield LeaseChange(uuid, claim.plugin, "quarantined", sentence)

    def _memory_is_free(self, on_device: DeviceClaims) -> bool:
        device = on_device.device
        if device is None or device.fault is not None:
            return False
        if on_device.baseline is None:
            return True  # nothing to compare with: only the container's end is known
        held = sum(claim.memory or 0 for claim in on_device.claims if claim.phase is Phase.HELD)
        return device.memory_used is not None and device.memory_used <= on_device.baseline + held + self._slack

    def _device_claims(self, uuid: str) -> DeviceClaims:
        claims = self._claims.values()
        return DeviceClaims(
            uuid,
            self._inventory.find(uuid) if self._inventory else None,
            claims=tuple(claim for claim in claims if claim.uuid == uuid),
            related=tuple(claim for claim in claims if self._related(claim.uuid, uuid)),
            baseline=self._baselines.get(uuid),
        )

    def _conflicts(self, grant: Grant, uuid: str) -> bool:
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


def _report(on_device: DeviceClaims) -> dict[str, Any]:
    phases = {claim.phase for claim in on_device.claims}
    # Unusable by its own fault, or through claims on its parent GPU or its MIG instances.
    usable = on_device.device is not None and on_device.device.grantable and not on_device.related
    return {
        "state": next((str(phase) for phase in _STATES if phase in phases), "free" if usable else "unusable"),
        "memory_available_bytes": on_device.available_memory if usable else None,
        "holders": [
            {
                "plugin": claim.plugin,
                "instance": claim.holder,
                "sharing": claim.sharing,
                "memory_bytes": claim.memory,
                "phase": str(claim.phase),
            }
            for claim in on_device.claims
        ],
    }


def _quarantine_sentence(claim: Claim, on_device: DeviceClaims) -> str:
    device, baseline = on_device.device, on_device.baseline
    if device is None or device.memory_used is None or baseline is None:
        why = "whether its memory was freed cannot be seen"
    else:
        why = f"{gib(device.memory_used)} of its memory are in use, {gib(baseline)} were before that plugin started"
    return (
        f"{on_device.name} ({on_device.uuid}) is quarantined: the container of the plugin {claim.plugin} is removed, "
        f"and {why}. End the process that still holds the memory (nvidia-smi shows it) and the GPU is released by "
        f"itself, or release it as it is: orchestrator gpus --release {on_device.uuid}"
    )
