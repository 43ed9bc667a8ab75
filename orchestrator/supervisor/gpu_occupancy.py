"""Who has the GPUs, and who wants some: what the plan of `parking` is made from. Reads only."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.gpus import GpuDemand, Grant, LeaseTable
from orchestrator.gpus.claims import Claim, Phase
from orchestrator.gpus.placement import size_rank
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import InstanceRecord, PluginRecord
from orchestrator.supervisor.container_policy import InstanceIdentity
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.parking import Gpu, Need, Tenant


class Plugin(Protocol):
    """What the plan asks of a plugin's supervisor, and has it do."""

    @property
    def record(self) -> PluginRecord | None: ...
    @property
    def runs_waiting(self) -> int: ...
    @property
    def waiting_since(self) -> float: ...
    @property
    def asked(self) -> bool: ...
    @property
    def updating(self) -> bool: ...
    @property
    def unsettled(self) -> bool: ...
    @property
    def recent_runs(self) -> float: ...
    def instance_with(self, token: str) -> Instance | None: ...
    def close_for(self, generation: int, reason: str) -> None: ...
    def run_left(self) -> None: ...


@dataclass(eq=False, slots=True)
class Applicant:
    """An instance that has no GPUs yet."""

    identity: InstanceIdentity
    manifest: Manifest
    demand: GpuDemand
    since: float
    """When it came; the monotonic clock."""
    say: Callable[[str], None]
    """To be called with what it waits for."""
    grant: asyncio.Future[Grant] = field(default_factory=asyncio.Future)
    seen: bool = False
    """There was a look at the GPUs since it came."""
    found_usable: bool = False
    """One that found the host in order."""
    behind: tuple[str, ...] = ()
    sentence: str = ""

    @property
    def plugin(self) -> str:
        return self.identity.plugin

    @property
    def holder(self) -> str:
        return self.identity.instance


class GpuOccupancy:
    """`withheld`: holders whose containers could not be stopped or removed."""

    def __init__(self, leases: LeaseTable, withheld: Container[str]) -> None:
        self._leases = leases
        self._withheld = withheld
        self.find: Callable[[str], Plugin | None] = lambda _: None
        """The supervisor of a name."""

    def gpus(self, without: Collection[str] = ()) -> list[Gpu]:
        """Those that may be granted."""
        return list(self._gpus(without))

    def tenants(self) -> list[Tenant]:
        """The instances that have GPUs, or whose containers had, but for those that are left behind."""
        claims: defaultdict[str, list[Claim]] = defaultdict(list)
        for claim in self._leases.claims:
            if claim.phase is not Phase.QUARANTINED and not self._left_behind(claim):
                claims[claim.holder].append(claim)
        return [self._tenant(number, each) for number, each in enumerate(claims.values(), start=1)]

    def needs(self, applicants: Iterable[Applicant], tenants: Iterable[Tenant]) -> list[tuple[Need, Applicant]]:
        """The runs that wait for a plugin wait for the first of its instances: nobody waits for the others."""
        served = {tenant.plugin for tenant in tenants if tenant.state != "closing"}
        found = []
        for each in sorted(applicants, key=lambda each: each.identity.generation):
            plugin, record = self.find(each.plugin), self._record(each.plugin)
            runs = 0 if plugin is None or each.plugin in served else plugin.runs_waiting
            served.add(each.plugin)
            # What is kept is to be there without being called; an update is an operator's command, whoever resumes it.
            asked = each.manifest.idle.keep or (plugin is not None and (plugin.asked or plugin.updating))
            need = Need(
                each.plugin,
                each.demand,
                since=min(each.since, plugin.waiting_since) if plugin is not None and runs else each.since,
                waiting=max(runs, int(asked)),
                start_seconds=None if record is None else record.start_seconds,
                generation=each.identity.generation,
            )
            found.append((need, each))
        return found

    def ended(self, applicant: Applicant) -> bool:
        """It needs no GPUs any more."""
        plugin = self.find(applicant.plugin)
        instance = None if plugin is None else plugin.instance_with(applicant.holder)
        return instance is not None and instance.ended is not None

    def closing(self) -> list[Plugin]:
        """The plugins of instances that make room and have no run: those that they wait for may be gone by now."""
        found = []
        for claim in self._leases.claims:
            plugin, instance = self._instance(claim)
            known = None if instance is None else self._recorded(claim.plugin, instance)
            if plugin is not None and known is not None and known.role == "draining" and known.in_flight == 0:
                found.append(plugin)
        return found

    def drained_at(self) -> float | None:
        """When the last container was removed whose memory is waited for; None while others are yet to be removed, or
        no memory is waited for.
        """
        claims = [claim for claim in self._leases.claims if not self._left_behind(claim)]
        if any(claim.phase is Phase.HELD and self._tenant(0, [claim]).state == "closing" for claim in claims):
            return None
        return max((claim.since for claim in claims if claim.phase is Phase.DRAINING), default=None)

    def has_it(self, name: str) -> str:
        """A clause about a plugin that is in the way."""
        record = self._record(name)
        if record is None or record.in_flight == 0:
            return f"{name} has it"
        return f"{name} has it, and executes {record.in_flight} run{'' if record.in_flight == 1 else 's'}"

    # Inside

    def _gpus(self, without: Collection[str]) -> Iterator[Gpu]:
        for each in self._leases.devices():
            device = each.device
            if device is None or not device.grantable or each.related or each.uuid in without:
                continue
            if any(claim.phase is Phase.QUARANTINED or self._left_behind(claim) for claim in each.claims):
                continue
            # By what is declared, and not by what plugins use at this moment.
            total, used = device.usable_memory
            others = (each.baseline if each.claims else used) or 0
            memory = None if total is None else max(0, total - others)
            yield Gpu(each.uuid, memory, device.parent_uuid is not None, size_rank(device))

    def _tenant(self, number: int, claims: Sequence[Claim]) -> Tenant:
        """`number` stands for the generation of one that nobody knows any more."""
        first = claims[0]
        name, uuids = first.plugin, tuple(claim.uuid for claim in claims)
        memory = None if first.sharing == "exclusive" else first.memory
        plugin, instance = self._instance(first)
        if plugin is None or instance is None:
            return Tenant(name, -number, uuids, memory, "closing")
        record, known = plugin.record, self._recorded(name, instance)
        released = any(claim.phase is not Phase.HELD for claim in claims)
        if released or instance.ended is not None or record is None or known is None or known.role == "draining":
            return Tenant(name, instance.generation, uuids, memory, "closing")
        return Tenant(
            name,
            instance.generation,
            uuids,
            memory,
            state="starting" if plugin.unsettled or not instance.ready else "ready",
            in_flight=known.in_flight,
            queued=plugin.runs_waiting,
            granted_at=instance.granted_at or 0.0,
            ready_at=known.ready_tick,
            used_at=instance.used_at,
            start_seconds=record.start_seconds,
            recent_runs=plugin.recent_runs,
            keep=instance.manifest.idle.keep or known.role == "candidate",
        )

    def _left_behind(self, claim: Claim) -> bool:
        """When its lease will end nobody knows."""
        _, instance = self._instance(claim)
        torn_down = instance is not None and instance.torn_down.is_set()
        return claim.holder in self._withheld or (claim.phase is Phase.HELD and torn_down)

    def _instance(self, claim: Claim) -> tuple[Plugin | None, Instance | None]:
        plugin = self.find(claim.plugin)
        return plugin, None if plugin is None else plugin.instance_with(claim.holder)

    def _record(self, name: str) -> PluginRecord | None:
        plugin = self.find(name)
        return None if plugin is None else plugin.record

    def _recorded(self, name: str, instance: Instance) -> InstanceRecord | None:
        record = self._record(name)
        return None if record is None else record.instance(instance.generation)
