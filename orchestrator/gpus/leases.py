"""LeaseTable: which instance holds which GPU. Pure: time and inventories are passed in. Not thread-safe.

A lease ends in two steps: its container is removed (`release`), and a probe that started after that finds that none of
its processes holds memory of the device (`observe`). Where the driver does not name the processes, the device's memory
must be back at its level before the lease. Where that takes too long the device is quarantined until it is, or until an
operator releases it (`release_quarantine`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from orchestrator.formatting import gib
from orchestrator.gpus.claims import Claim, GpuDemand, Grant, Phase
from orchestrator.gpus.inventory import GpuDevice, GpuInventory, GpuProblem
from orchestrator.gpus.memory import Holding, listed_bytes
from orchestrator.gpus.placement import DeviceClaims, choose, refusal, why_busy
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
        self._listed: dict[str, int | None] = {}
        """Bytes of the baseline that listed processes held."""
        self._owners: Mapping[int, str] = {}
        self._seen: set[tuple[str, str]] = set()
        """Claims whose holder was seen among the processes: the driver names it, so its absence means something."""
        self._parents: dict[str, str] = {}
        self._inventory: GpuInventory | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(self._claims.values())

    @property
    def reclaiming(self) -> bool:
        """A released device's memory is still awaited: probe again soon."""
        return any(claim.phase is not Phase.HELD for claim in self._claims.values())

    @property
    def unsure(self) -> bool:
        """It cannot be known whose memory is in use on a released device: only a longer wait can show it."""
        # Of one that is lost no wait shows anything.
        leaving = [claim for claim in self._claims.values() if claim.phase is Phase.DRAINING]
        return any(self._well(claim.uuid) and self._processes_of(claim) is None for claim in leaving)

    def holdings(self, uuid: str) -> tuple[dict[str, Holding], int | None]:
        """Plugin → its memory on this device; and the bytes of programs that are no plugins, None where not known."""
        device = self._inventory.find(uuid) if self._inventory else None
        claims = [claim for claim in self._claims.values() if claim.uuid == uuid]
        plugins = {claim.plugin: Holding(claim.memory, self._held_by(claim, device)) for claim in claims}
        return plugins, listed_bytes(device, self._owners, "")

    def held_bytes(self, holder: str, uuid: str) -> int | None:
        """What this instance's processes hold of a device that it has. None where the driver does not say."""
        claim = self._claims.get((holder, uuid))
        device = self._inventory.find(uuid) if self._inventory else None
        return None if claim is None else self._held_by(claim, device)

    def grant_of(self, holder: str) -> Grant | None:
        """What this instance holds now; None where it holds nothing or has released it."""
        held = [claim for claim in self._of(holder) if claim.phase is Phase.HELD]
        return self._as_grant(held) if held else None

    def quarantines(self) -> tuple[str, ...]:
        """One sentence per quarantined device."""
        return tuple(
            self._quarantine_sentence(claim) for claim in self._claims.values() if claim.phase is Phase.QUARANTINED
        )

    def report(self) -> dict[str, dict[str, Any]]:
        """UUID → its leases in the API; leased devices that were removed from the host are included."""
        devices = self._inventory.devices if self._inventory else ()
        uuids = dict.fromkeys([device.uuid for device in devices] + [claim.uuid for claim in self._claims.values()])
        return {uuid: self._report(self._device_claims(uuid)) for uuid in uuids}

    def observe(
        self, inventory: GpuInventory, now: float, owners: Mapping[int, str] | None = None
    ) -> tuple[LeaseChange, ...]:
        """Take in a probe's inventory; one older than the last is ignored. `now`: monotonic clock, seconds.

        `owners`: number of a process that the probe lists → the holder whose container it runs in, empty for one that
        runs in no plugin's container. One that is missing is not known.
        """
        if self._inventory is None or inventory.probe_started >= self._inventory.probe_started:
            self._inventory, self._owners = inventory, owners or {}
            for claim in self._claims.values():
                if self._own_processes(claim, inventory.find(claim.uuid)):
                    self._seen.add((claim.holder, claim.uuid))
            self._parents |= {d.uuid: d.parent_uuid for d in inventory.devices if d.parent_uuid is not None}
        leaving = defaultdict(list)
        for claim in self._claims.values():
            if claim.phase is not Phase.HELD:
                leaving[claim.uuid].append(claim)
        return tuple(change for uuid, claims in leaving.items() for change in self._settle(uuid, claims, now))

    def devices(self) -> tuple[DeviceClaims, ...]:
        """The devices of the last inventory, with the claims on them."""
        return tuple(
            self._device_claims(device.uuid) for device in (self._inventory.devices if self._inventory else ())
        )

    def refusal(self, demand: GpuDemand) -> GpuProblem:
        """Why `demand` cannot be met now."""
        return refusal(demand, self.devices(), self._inventory.unreadable if self._inventory else ())

    def why_busy(self, demand: GpuDemand) -> str:
        """The same of leased GPUs, without what to do."""
        return why_busy(demand, self.devices(), self._inventory.unreadable if self._inventory else ())

    def grant(
        self, holder: str, plugin: str, demand: GpuDemand, among: Collection[str] | None = None
    ) -> Grant | GpuProblem:
        """Devices for a new instance according to the last inventory, or why there are none; `among` these UUIDs, where
        they are given. Idempotent per holder.
        """
        if (held := self.grant_of(holder)) is not None:
            return held
        if self._of(holder):
            return GpuProblem(
                ReasonCode.GPU_BUSY, "This instance has released its GPUs; restart the plugin for a new one."
            )
        chosen = self._chosen(plugin, demand, among)
        if isinstance(chosen, GpuProblem):
            return chosen
        for each in chosen:
            # Only before the first claim: later figures contain what the plugins use.
            if each.uuid not in self._baselines:
                self._baselines[each.uuid] = each.device.usable_memory[1] if each.device else None
                self._listed[each.uuid] = listed_bytes(each.device)
            self._put(Claim(holder, plugin, each.uuid, "exclusive" if demand.exclusive else "shared", demand.memory))
        return self._as_grant(self._of(holder))

    def missing(self, plugin: str, demand: GpuDemand) -> GpuProblem | None:
        """Why there are no devices for one more instance; None where there are."""
        chosen = self._chosen(plugin, demand)
        return chosen if isinstance(chosen, GpuProblem) else None

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
            if uuid not in self._baselines:
                self._baselines[uuid], self._listed[uuid] = grant.baselines.get(uuid), grant.listed.get(uuid)
            self._put(Claim(grant.holder, grant.plugin, uuid, grant.sharing, grant.memory))
        return True

    def release_quarantine(self, uuid: str) -> bool:
        """An operator takes the device out of quarantine, whatever its memory. False where it is not quarantined."""
        quarantined = [c for c in self._claims.values() if c.uuid == uuid and c.phase is Phase.QUARANTINED]
        self._drop(quarantined)
        return bool(quarantined)

    def _chosen(
        self, plugin: str, demand: GpuDemand, among: Collection[str] | None = None
    ) -> Sequence[DeviceClaims] | GpuProblem:
        if self._inventory is None:
            return GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The host's GPUs have not been probed yet; try again.")
        if self._inventory.problem is not None:
            return self._inventory.problem
        candidates = [each for each in self.devices() if among is None or each.uuid in among]
        return choose(demand, candidates, plugin) or self.refusal(demand)

    def _settle(self, uuid: str, leaving: list[Claim], now: float) -> Iterable[LeaseChange]:
        probe_started = self._inventory.probe_started if self._inventory else 0.0
        # A probe that began before the container's end proves nothing about its memory.
        seen_after_end = [claim for claim in leaving if claim.since < probe_started]
        if seen_after_end and self._is_free(self._device_claims(uuid), seen_after_end):
            self._drop(seen_after_end)
            for claim in seen_after_end:
                yield LeaseChange(uuid, claim.plugin, "free", f"The plugin {claim.plugin} has released {uuid}.")
            return
        for claim in leaving:
            if claim.phase is Phase.DRAINING and now - claim.since > self._drain_seconds:
                quarantined = replace(claim, phase=Phase.QUARANTINED, since=now)
                self._put(quarantined)
                sentence = self._quarantine_sentence(quarantined)
                yield LeaseChange(uuid, claim.plugin, "quarantined", sentence)

    def _is_free(self, on_device: DeviceClaims, leaving: list[Claim]) -> bool:
        """Whether what these claims' containers used of the device is given back."""
        device, baseline = on_device.device, on_device.baseline
        if device is None or device.fault is not None or any(self._own_processes(claim, device) for claim in leaving):
            return False
        # The machine's memory says nothing of one program. Without a baseline only the container's end is known.
        if device.unified_memory or baseline is None:
            return True
        held = sum(claim.memory or 0 for claim in on_device.claims if claim.phase is Phase.HELD)
        if device.memory_used is not None and device.memory_used <= baseline + held + self._slack:
            return True
        # More is in use than before: another program's, if none of the processes that the driver names is ours.
        return all(self._processes_of(claim) == () for claim in leaving)

    def _well(self, uuid: str) -> bool:
        device = self._inventory.find(uuid) if self._inventory else None
        return device is not None and device.fault is None

    def _processes_of(self, claim: Claim) -> tuple[int, ...] | None:
        """The processes of this claim's container that hold memory of its device; None where that cannot be known."""
        device = self._inventory.find(claim.uuid) if self._inventory else None
        if device is None or device.processes is None:
            return None
        if own := self._own_processes(claim, device):
            return own
        if any(process.pid not in self._owners for process in device.processes):
            return None
        # In a container, in WSL2 and with MIG the list may be empty or lack some. It counts where the holder was in it,
        # or where all memory in use that was not before the lease is that of processes in the list.
        return () if (claim.holder, claim.uuid) in self._seen or self._accounts_for_all(device) else None

    def _accounts_for_all(self, device: GpuDevice) -> bool:
        before, listed_before = self._baselines.get(device.uuid), self._listed.get(device.uuid)
        listed = listed_bytes(device)
        if before is None or listed_before is None or listed is None or device.memory_used is None:
            return False
        return device.memory_used - listed <= before - listed_before + self._slack

    def _own_processes(self, claim: Claim, device: GpuDevice | None) -> tuple[int, ...]:
        processes = (device.processes if device is not None else None) or ()
        return tuple(process.pid for process in processes if self._owners.get(process.pid) == claim.holder)

    def _held_by(self, claim: Claim, device: GpuDevice | None) -> int | None:
        # A program that was never in the list may not have begun to use its GPU, or may not be visible.
        return listed_bytes(device, self._owners, claim.holder) if (claim.holder, claim.uuid) in self._seen else None

    def _quarantine_sentence(self, claim: Claim) -> str:
        return _quarantine_sentence(claim, self._device_claims(claim.uuid), self._processes_of(claim))

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
        self._listed = {uuid: value for uuid, value in self._listed.items() if uuid in in_use}
        self._seen &= self._claims.keys()

    def _as_grant(self, claims: list[Claim]) -> Grant:
        first = claims[0]
        uuids = tuple(claim.uuid for claim in claims)
        baselines = {uuid: self._baselines.get(uuid) for uuid in uuids}
        listed = {uuid: self._listed.get(uuid) for uuid in uuids}
        parents = {uuid: self._parents[uuid] for uuid in uuids if uuid in self._parents}
        return Grant(first.holder, first.plugin, uuids, first.sharing, first.memory, baselines, parents, listed)

    @staticmethod
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


def _quarantine_sentence(claim: Claim, on_device: DeviceClaims, processes: tuple[int, ...] | None) -> str:
    device, baseline = on_device.device, on_device.baseline
    if device is None or device.memory_used is None or baseline is None:
        why = "whether its memory was freed cannot be seen"
    else:
        why = f"{gib(device.memory_used)} of its memory are in use, {gib(baseline)} were before that plugin started"
    if processes:
        numbers = ", ".join(str(pid) for pid in processes)
        whose, cure = f"Its process(es) {numbers} still hold memory", "End them"
    else:
        whose = "Whose memory it is cannot be known: the driver does not name the processes that hold it"
        cure = "End the process that still holds the memory (nvidia-smi on the host shows it)"
    return (
        f"{on_device.name} ({on_device.uuid}) is quarantined: the container of the plugin {claim.plugin} is removed, "
        f"and {why}. {whose}. {cure} and the GPU is released by itself, or release it as it is: orchestrator gpus "
        f"--release {on_device.uuid}"
    )
