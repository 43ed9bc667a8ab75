"""GpuAllocator: grants GPUs to instances, takes them back, watches the granted ones."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import DeviceGrant, EngineInfo
from orchestrator.errors import EngineError, NotFoundError
from orchestrator.formatting import gib
from orchestrator.gpus import GpuDemand, GpuHost, GpuInventory, GpuProblem, Grant, LeaseChange, LeaseTable
from orchestrator.gpus.claims import Phase
from orchestrator.gpus.device_requests import WAY_NAMES, EngineGpus, Way, device_requests
from orchestrator.gpus.evidence import NodeAccess, read_node_access
from orchestrator.gpus.host_check import PERSISTENCE
from orchestrator.gpus.losses import LossWatch
from orchestrator.gpus.memory import Holding, memory_blame, over_budget
from orchestrator.gpus.refusals import Refusal, judge_engine, without_names
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import Check
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.container_policy import InstanceIdentity
from orchestrator.supervisor.gpu_occupancy import Plugin
from orchestrator.supervisor.gpu_planner import GpuPlanner
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.start_verdict import verdict_of_engine

_NO_PLUGIN: Final = ""  # the owner of a process that runs in no plugin's container

_UNREADABLE: Final[dict[str, Any]] = {"state": "unusable", "memory_available_bytes": None, "holders": []}

_log = logging.getLogger(__name__)


class GpuAllocator:
    """`holder`, here and below: the `instance` of an identity."""

    def __init__(
        self,
        host: GpuHost,
        engine: ContainerEngine,
        *,
        forced_driver: Way | None = None,
        groups: Collection[int] = (),
        node_access: Callable[[], NodeAccess] = read_node_access,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._engine = engine
        self._forced_driver = forced_driver
        self._groups = tuple(groups)
        self._node_access = node_access
        self._engine_gpus: EngineGpus | None = None
        """As the engine last reported."""
        self._served: Way | None = None
        """The way in which the engine handed out GPUs last."""
        self._refused: dict[Way, str] = {}
        """Way → why the engine refused it last."""
        self._clock = clock
        self._leases = LeaseTable()
        self._changed = asyncio.Event()
        self._on_change: Callable[[LeaseChange], None] = lambda _: None
        self._containers: dict[str, str] = {}
        """Holder → the id of its container."""
        self._owners: dict[int, str] = {}
        """Process that holds memory of a GPU → its holder, or `_NO_PLUGIN`."""
        self._losses = LossWatch()
        self._withheld: dict[str, str] = {}
        """Holder → why its GPUs are not granted to others: its container could not be stopped or removed."""
        self._planner = GpuPlanner(self._leases, self._read, self._withheld, clock)

    def meet(self, find: Callable[[str], Plugin | None]) -> None:
        """Know the plugins: `find` returns the supervisor of a name."""
        self._planner.meet(find)

    def changed(self) -> None:
        """An instance, a run or a command may have changed who is to get a GPU."""
        self._planner.changed()

    async def check(self) -> None:
        """Require a usable GPU and an engine that can hand it out. Raises `InstanceEndedError`."""
        inventory = await self._read(thorough=True)
        problem = inventory.problem or judge_engine(engine_gpus(await self._engine_info()), self._forced_driver)
        if problem is not None:
            raise InstanceEndedError(gpu_verdict(problem))

    async def acquire(
        self, identity: InstanceIdentity, manifest: Manifest, say: Callable[[str], None] = lambda _: None
    ) -> Grant:
        """Lease devices for this instance, as soon as the plan gives it some; see `GpuPlanner.acquire`."""
        grant = await self._planner.acquire(identity, manifest, gpu_demand(manifest), say)
        self._changed.set()
        return grant

    async def missing(self, manifest: Manifest) -> str | None:
        """Why there are no GPUs for one more instance now, as a phrase; None where there are, or none are needed."""
        if not manifest.requires_gpu:
            return None
        await self._read()
        problem = self._leases.missing(manifest.name, gpu_demand(manifest))
        return None if problem is None else problem.sentence.rstrip(".")

    def would_park(self, manifest: Manifest) -> tuple[str, ...]:
        """The plugins that would be parked for one more instance now, as by the last look at the GPUs."""
        return self._planner.would_park(manifest.name, gpu_demand(manifest)) if manifest.requires_gpu else ()

    def track(self, holder: str, container_id: str) -> None:
        """The container of a holder: its processes are those of the plugin."""
        self._containers[holder] = container_id

    async def device_requests(self, grant: Grant, *, video: bool) -> tuple[DeviceGrant, ...]:
        """The device requests for a grant that this engine may serve, in the order to try them. Raises
        `InstanceEndedError` where none can hold exactly these devices.
        """
        info = await self._engine_info()
        engine = engine_gpus(info)
        if self._engine_gpus not in (None, engine):  # another engine, or another configuration
            self._served, self._refused = None, {}
        self._engine_gpus = engine
        requests = device_requests(
            grant.uuids, engine, self._host.latest, forced=self._forced_driver, worked=self._served, video=video
        )
        if not requests:
            raise InstanceEndedError(gpu_verdict(without_names()))
        groups = await self._node_groups(info)
        return tuple(
            DeviceGrant(each.driver, each.device_ids, each.capabilities, grant.uuids, groups) for each in requests
        )

    def served(self, devices: DeviceGrant) -> None:
        """The engine started a container with this request: the next one is made in the same way."""
        way = _way(devices)
        if way != self._served:
            _log.info("the engine hands out GPUs by %s", WAY_NAMES[way])
        self._served = way
        self._refused.pop(way, None)

    def refused(self, devices: DeviceGrant, refusal: Refusal) -> None:
        """The engine refused a container with this request."""
        way = _way(devices)
        _log.warning("the engine refused a GPU by %s: %s", WAY_NAMES[way], refusal.problem.sentence)
        self._refused[way] = refusal.problem.sentence_of_host
        if way == self._served:
            self._served = None

    def release(self, holder: str) -> None:
        """End the lease of an instance whose container is removed, or was never made."""
        self._withheld.pop(holder, None)
        self._containers.pop(holder, None)
        if self._leases.release(holder, self._clock()):
            self._changed.set()
        self._planner.changed()

    def adopt(self, grant: Grant, way: Way | None = None) -> bool:
        """Restore the lease of an adopted container, which was handed its GPUs in this `way`. False where another
        instance has its devices.
        """
        adopted = self._leases.adopt(grant)
        if adopted:
            self._served = way or self._served
            self._changed.set()
        return adopted

    def quarantine(self, holder: str, sentence: str) -> None:
        """Withhold the GPUs of an instance whose container could not be stopped or removed, until `release`."""
        if self._leases.grant_of(holder) is not None:
            self._withheld[holder] = sentence
            self._planner.changed()

    def clear(self, uuid: str) -> bool:
        """Take a GPU out of quarantine. False where it is in none, or its container still exists."""
        cleared = self._leases.release_quarantine(uuid)
        self._planner.changed()
        return cleared

    def facts(self, grant: Grant) -> tuple[dict[str, Any], ...]:
        """The granted devices, as in the health API."""
        inventory = self._host.latest
        devices = [(uuid, inventory.find(uuid) if inventory else None) for uuid in grant.uuids]
        return tuple(
            {
                **(device.report() if device else {"uuid": uuid}),
                "used_by_plugin_bytes": self._leases.held_bytes(grant.holder, uuid),
            }
            for uuid, device in devices
        )

    def checks(self, grant: Grant) -> tuple[Check, ...]:
        """What is found about the granted devices: looks at them that failed, a budget that is not kept."""
        found = []
        for uuid in grant.uuids:
            doubt = self._losses.doubts.get(uuid)
            detail = doubt.sentence if doubt else "the driver answers"
            found.append(Check(f"gpu.driver {uuid}", ok=doubt is None, detail=detail, source="host"))
            if grant.memory is not None:
                held = self._leases.held_bytes(grant.holder, uuid)
                problem = over_budget(grant.plugin, uuid, Holding(grant.memory, held))
                within = "its processes are not in the driver's list" if held is None else f"holds {gib(held)}"
                detail = problem or f"{within}; its budget (gpu.memory) is {gib(grant.memory)}"
                found.append(Check(f"gpu.memory {uuid}", ok=problem is None, detail=detail, source="host"))
        return tuple(found)

    def blame(self, grant: Grant) -> str:
        """Whose memory it was when this plugin was out of memory on its GPUs, as of the last look."""
        blamed = [(uuid, *self._leases.holdings(uuid)) for uuid in grant.uuids]
        return " ".join(
            memory_blame(uuid, holdings, grant.plugin, other_bytes=others) for uuid, holdings, others in blamed
        )

    def report(self) -> dict[str, Any]:
        """Inventory, health and leases as last read, without waiting."""
        inventory = self._host.latest
        leases = self._leases.report()
        report = inventory.report() if inventory else {"reason_code": None, "reason": self._waiting(), "devices": []}
        known = {device["uuid"] for device in report["devices"]}
        report["devices"] = [
            # One that does not say which it is has no leases.
            {**device, **leases.get(device["uuid"], _UNREADABLE), "used_by_plugins_bytes": self._used(device["uuid"])}
            for device in [*report["devices"], *({"uuid": uuid} for uuid in leases if uuid not in known)]
        ]
        engine = {"served_by": self._served, "refused": dict(self._refused)}
        quarantines = [*self._leases.quarantines(), *self._withheld.values()]
        return {**report, "engine": engine, "quarantines": quarantines, "waiting": self._planner.report()}

    def waits_for_driver(self) -> str:
        """What a start that waits for the driver's answer waits for."""
        return f"for the NVIDIA driver to answer; where it takes long, {PERSISTENCE}"

    def _waiting(self) -> str | None:
        waiting = self._host.waiting_seconds
        return None if waiting is None else f"The first look has waited {waiting:.0f} s {self.waits_for_driver()}."

    def _used(self, uuid: str | None) -> dict[str, int | None]:
        holdings, _ = self._leases.holdings(uuid or "")
        return {plugin: holding.held_bytes for plugin, holding in holdings.items()}

    async def watch(
        self,
        on_lost: Callable[[str, Verdict], None],
        on_change: Callable[[LeaseChange], None] = lambda _: None,
        on_look: Callable[[Grant], None] = lambda _: None,
    ) -> None:
        """Watch the granted GPUs, for ever. `on_lost` is called with the holder of a lost one, `on_change` when one was
        released or is quarantined, `on_look` after each look at those of a holder.
        """
        self._on_change = on_change
        await self._read()
        while True:
            # Each probe is a child process, so none is made while no GPU is leased.
            if not self._leases.claims:
                self._changed.clear()
                await self._changed.wait()
            await asyncio.sleep(self._planner.look_interval)
            inventory = await self._read()
            grants = [self._leases.grant_of(holder) for holder in {claim.holder for claim in self._leases.claims}]
            held = [grant for grant in grants if grant is not None]
            self._losses.observe({uuid for grant in held for uuid in grant.uuids}, inventory)
            for grant in held:
                on_look(grant)
                problem = self._losses.judge(grant.uuids, inventory)
                if problem is not None:
                    on_lost(grant.holder, gpu_verdict(problem))

    async def _read(self, *, thorough: bool = False) -> GpuInventory:
        inventory = await (self._host.check() if thorough else self._host.read())
        await self._find_owners(inventory)
        for change in self._leases.observe(inventory, self._clock(), dict(self._owners)):
            _log.log(logging.WARNING if change.state == "quarantined" else logging.INFO, change.sentence)
            self._on_change(change)
            self._planner.changed()
        return inventory

    async def _find_owners(self, inventory: GpuInventory) -> None:
        """Ask the engine whose the processes are that are new in the driver's list."""
        listed = {process.pid for device in inventory.devices for process in device.processes or () if process.pid > 0}
        self._owners = {pid: owner for pid, owner in self._owners.items() if pid in listed}
        new = listed - self._owners.keys()
        if not new:
            return
        held = [claim for claim in self._leases.claims if claim.phase is Phase.HELD]
        containers = {claim.holder: self._containers.get(claim.holder) for claim in held}
        answers = await asyncio.gather(*(self._processes(container) for container in containers.values()))
        processes = dict(zip(containers, answers, strict=True))
        for pid in new:
            owner = next((holder for holder, numbers in processes.items() if numbers and pid in numbers), None)
            if owner is None:
                on = {device.uuid for device in inventory.devices if pid in {p.pid for p in device.processes or ()}}
                # It may be that of a holder whose container has no id yet, or could not be asked about.
                if any(processes[claim.holder] is None for claim in held if claim.uuid in on):
                    continue
                owner = _NO_PLUGIN
            self._owners[pid] = owner

    async def _processes(self, container_id: str | None) -> frozenset[int] | None:
        if container_id is None:
            return None
        try:
            return await self._engine.processes(container_id)
        except NotFoundError:
            return frozenset()
        except EngineError:
            return None

    async def _node_groups(self, info: EngineInfo) -> tuple[int, ...]:
        try:
            local = await self._engine.shares_sockets()
        except EngineError as error:
            raise InstanceEndedError(verdict_of_engine(error, "it was asked where it runs")) from error
        if not same_groups(info, local=local):
            return self._groups
        access = await asyncio.to_thread(self._node_access)
        return tuple(dict.fromkeys((*access.groups, *self._groups)))

    async def _engine_info(self) -> EngineInfo:
        try:
            return await self._engine.info()
        except EngineError as error:
            raise InstanceEndedError(verdict_of_engine(error, "it was asked for its GPUs")) from error


def gpu_demand(manifest: Manifest) -> GpuDemand:
    """What one instance needs."""
    gpu = manifest.gpu
    return GpuDemand(gpu.count, int(gpu.memory) if gpu.memory is not None else None, gpu.sharing, manifest.spread)


def engine_gpus(info: EngineInfo) -> EngineGpus:
    """What an engine tells of GPUs."""
    return EngineGpus(info.gpu_drivers, info.cdi_devices, only_cdi=info.product == "Podman")


def same_groups(info: EngineInfo, *, local: bool) -> bool:
    """Whether groups have the same numbers in the engine's containers as on this host. `local`: it runs here."""
    return local and not info.rootless and not info.userns


def _way(devices: DeviceGrant) -> Way:
    return next(way for way in WAY_NAMES if way == devices.driver)


def gpu_verdict(problem: GpuProblem) -> Verdict:
    """The verdict on an instance that cannot have its GPUs, or has lost one."""
    return Verdict(problem.code, problem.sentence)
