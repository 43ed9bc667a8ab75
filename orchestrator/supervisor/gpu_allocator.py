"""GpuAllocator: grants GPUs to instances, takes them back, watches the granted ones."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import DeviceGrant
from orchestrator.errors import EngineError
from orchestrator.gpus import GpuDemand, GpuHost, GpuInventory, GpuProblem, Grant, LeaseChange, LeaseTable
from orchestrator.gpus.claims import Driver, device_request
from orchestrator.gpus.host_check import judge_engine, judge_running
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.instance import InstanceEndedError

# A lost GPU is found within two reads of the inventory.
_CHECK_INTERVAL: Final = 2.0  # seconds between reads while a GPU is granted
_DRAIN_INTERVAL: Final = 0.25  # the same while the memory of a GPU is waited for
# A driver takes one or two seconds to free the memory of a container that was removed.
_DRAIN_TIMEOUT: Final = 3.0  # seconds that a new instance waits for that

_log = logging.getLogger(__name__)


class GpuAllocator:
    """`holder`, here and below: the `instance` of an identity."""

    def __init__(
        self,
        host: GpuHost,
        engine: ContainerEngine,
        *,
        forced_driver: Driver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._engine = engine
        self._forced_driver = forced_driver
        self._clock = clock
        self._leases = LeaseTable()
        self._changed = asyncio.Event()
        self._on_change: Callable[[LeaseChange], None] = lambda _: None
        self._withheld: dict[str, str] = {}
        """Holder → why its GPUs are not granted to others: its container could not be stopped or removed."""

    async def check(self) -> None:
        """Require a usable GPU and an engine that can hand it out. Raises `InstanceEndedError`."""
        inventory = await self._read(thorough=True)
        problem = inventory.problem or judge_engine(await self._engine_drivers(), self._forced_driver)
        if problem is not None:
            raise InstanceEndedError(_verdict(problem))

    async def acquire(self, holder: str, manifest: Manifest) -> Grant:
        """Lease devices for this instance. Raises `InstanceEndedError`: GPU_BUSY, or a problem of the host."""
        gpu = manifest.gpu
        demand = GpuDemand(gpu.count, int(gpu.memory) if gpu.memory is not None else None, gpu.sharing)
        end = self._clock() + _DRAIN_TIMEOUT
        # Leases depend on the memory in use: figures of an earlier probe would not do.
        await self._read()
        while isinstance(answer := self._leases.grant(holder, manifest.name, demand), GpuProblem):
            # Only a GPU that is being released is worth a wait.
            if not self._leases.reclaiming or self._clock() > end:
                raise InstanceEndedError(_verdict(answer))
            await asyncio.sleep(_DRAIN_INTERVAL)
            await self._read()
        self._changed.set()
        return answer

    async def device_grant(self, grant: Grant, *, video: bool) -> DeviceGrant:
        """The device request for a grant, in the form that this engine accepts."""
        fields = device_request(
            grant.uuids, gpu_drivers=await self._engine_drivers(), forced=self._forced_driver, video=video
        )
        return DeviceGrant(fields.driver, fields.device_ids, fields.capabilities)

    def release(self, holder: str) -> None:
        """End the lease of an instance whose container is removed, or was never made."""
        self._withheld.pop(holder, None)
        if self._leases.release(holder, self._clock()):
            self._changed.set()

    def adopt(self, grant: Grant) -> bool:
        """Restore the lease of an adopted container. False where another instance has its devices."""
        adopted = self._leases.adopt(grant)
        if adopted:
            self._changed.set()
        return adopted

    def quarantine(self, holder: str, sentence: str) -> None:
        """Withhold the GPUs of an instance whose container could not be stopped or removed, until `release`."""
        if self._leases.grant_of(holder) is not None:
            self._withheld[holder] = sentence

    def clear(self, uuid: str) -> bool:
        """Take a GPU out of quarantine. False where it is in none, or its container still exists."""
        return self._leases.release_quarantine(uuid)

    def facts(self, grant: Grant) -> tuple[dict[str, Any], ...]:
        """The granted devices, as in the health API."""
        inventory = self._host.latest
        devices = [(uuid, inventory.find(uuid) if inventory else None) for uuid in grant.uuids]
        return tuple(device.report() if device else {"uuid": uuid} for uuid, device in devices)

    def report(self) -> dict[str, Any]:
        """Inventory, health and leases as last read, without waiting."""
        inventory = self._host.latest
        leases = self._leases.report()
        report = inventory.report() if inventory else {"reason_code": None, "reason": None, "devices": []}
        known = {device["uuid"] for device in report["devices"]}
        report["devices"] = [
            {**device, **leases.get(device["uuid"], {})}
            for device in [*report["devices"], *({"uuid": uuid} for uuid in leases if uuid not in known)]
        ]
        return {**report, "quarantines": [*self._leases.quarantines(), *self._withheld.values()]}

    async def watch(
        self, on_lost: Callable[[str, Verdict], None], on_change: Callable[[LeaseChange], None] = lambda _: None
    ) -> None:
        """Watch the granted GPUs, for ever. `on_lost` is called with the holder of a lost one, `on_change` when one was
        released or is quarantined.
        """
        self._on_change = on_change
        await self._read()
        while True:
            # Each probe is a child process, so none is made while no GPU is leased.
            if not self._leases.claims:
                self._changed.clear()
                await self._changed.wait()
            await asyncio.sleep(_DRAIN_INTERVAL if self._leases.reclaiming else _CHECK_INTERVAL)
            inventory = await self._read()
            for holder in {claim.holder for claim in self._leases.claims}:
                grant = self._leases.grant_of(holder)
                problem = judge_running(grant.uuids, inventory) if grant else None
                if problem is not None:
                    on_lost(holder, _verdict(problem))

    async def _read(self, *, thorough: bool = False) -> GpuInventory:
        inventory = await (self._host.check() if thorough else self._host.read())
        for change in self._leases.observe(inventory, self._clock()):
            _log.log(logging.WARNING if change.state == "quarantined" else logging.INFO, change.sentence)
            self._on_change(change)
        return inventory

    async def _engine_drivers(self) -> tuple[str, ...]:
        try:
            return (await self._engine.info()).gpu_drivers
        except EngineError as error:
            raise InstanceEndedError(
                Verdict(
                    ReasonCode.ENGINE_UNREACHABLE,
                    f"The container engine did not say whether it has GPUs: {error}. Start it, then restart the "
                    "plugin.",
                )
            ) from error


def _verdict(problem: GpuProblem) -> Verdict:
    return Verdict(problem.code, problem.sentence)
