"""GpuKeeper: gives GPUs to instances, takes them back, looks after those held. One a fleet."""

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

_LOOK: Final = 2.0
"""Seconds between looks at GPUs that are held: a lost one is found within two of them."""
_SOON: Final = 0.25
"""Seconds between looks while a GPU's memory is waited for."""
_GIVEN_BACK_WITHIN: Final = 3.0
"""Seconds that a new instance waits for a GPU whose last container has just gone: a driver takes one or two of them."""

_log = logging.getLogger(__name__)


class GpuKeeper:
    """`on_lost(holder, problem)` is called for an instance whose GPU is gone."""

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
        self._forced = forced_driver
        self._clock = clock
        self._book = LeaseTable()
        self._changed = asyncio.Event()
        self._on_change: Callable[[LeaseChange], None] = lambda _: None
        self._stuck: dict[str, str] = {}
        """Holder → why its GPUs are not to be had: its container could not be ended."""

    async def check(self) -> None:
        """Is there a usable GPU, and an engine that can hand it out? Raises `InstanceEndedError` with what is missing.

        Nothing is started or built for the answer.
        """
        inventory = await self._look(thorough=True)
        problem = inventory.problem or judge_engine(await self._engine_drivers(), self._forced)
        if problem is not None:
            raise InstanceEndedError(_verdict(problem))

    async def acquire(self, holder: str, manifest: Manifest) -> Grant:
        """Devices for this instance; waits for some that are just being given back.

        Raises `InstanceEndedError`: GPU_BUSY, or what is wrong with the host.
        """
        gpu = manifest.gpu
        demand = GpuDemand(gpu.count, int(gpu.memory) if gpu.memory is not None else None, gpu.sharing)
        end = self._clock() + _GIVEN_BACK_WITHIN
        await self._look()
        while isinstance(answer := self._book.grant(holder, manifest.name, demand), GpuProblem):
            if not self._book.reclaiming or self._clock() > end:
                raise InstanceEndedError(_verdict(answer))
            await asyncio.sleep(_SOON)
            await self._look()
        self._changed.set()
        return answer

    async def device_grant(self, grant: Grant, *, video: bool) -> DeviceGrant:
        """The device request for what was granted, in the words that this engine knows."""
        fields = device_request(grant.uuids, gpu_drivers=await self._engine_drivers(), forced=self._forced, video=video)
        return DeviceGrant(fields.driver, fields.device_ids, fields.capabilities)

    def release(self, holder: str) -> None:
        """The container of this instance is gone, or was never made."""
        self._stuck.pop(holder, None)
        if self._book.release(holder, self._clock()):
            self._changed.set()

    def adopt(self, grant: Grant) -> bool:
        """Take up again what a container from before this start was granted. False where another has its devices."""
        adopted = self._book.adopt(grant)
        if adopted:
            self._changed.set()
        return adopted

    def hold_back(self, holder: str, sentence: str) -> None:
        """Its container could not be ended: its GPUs stay with it, quarantined, until `release`."""
        if self._book.grant_of(holder) is not None:
            self._stuck[holder] = sentence

    def clear(self, uuid: str) -> bool:
        """An operator takes a GPU out of quarantine. False where it is in none that can be ended so: one whose
        container could not be ended stays.
        """
        return self._book.release_quarantine(uuid)

    def facts(self, grant: Grant) -> tuple[dict[str, Any], ...]:
        """The granted devices as the health API shows them."""
        inventory = self._host.latest
        devices = [(uuid, inventory.find(uuid) if inventory else None) for uuid in grant.uuids]
        return tuple(device.report() if device else {"uuid": uuid} for uuid, device in devices)

    def report(self) -> dict[str, Any]:
        """Inventory, health and leases, as the last look saw them: for API routes, which wait for nobody."""
        inventory = self._host.latest
        leases = self._book.report()
        report = inventory.report() if inventory else {"reason_code": None, "reason": None, "devices": []}
        known = {device["uuid"] for device in report["devices"]}
        report["devices"] = [
            {**device, **leases.get(device["uuid"], {})}
            for device in [*report["devices"], *({"uuid": uuid} for uuid in leases if uuid not in known)]
        ]
        return {**report, "quarantines": [*self._book.quarantines(), *self._stuck.values()]}

    async def watch(
        self, on_lost: Callable[[str, Verdict], None], on_change: Callable[[LeaseChange], None] = lambda _: None
    ) -> None:
        """Looks at the GPUs as long as somebody holds one or their memory is waited for. Never ends by itself.

        `on_change` hears of GPUs that were given back, and of those that were not and are quarantined.
        """
        self._on_change = on_change
        await self._look()
        while True:
            if not self._book.claims:
                self._changed.clear()
                await self._changed.wait()
            await asyncio.sleep(_SOON if self._book.reclaiming else _LOOK)
            inventory = await self._look()
            for holder in {claim.holder for claim in self._book.claims}:
                grant = self._book.grant_of(holder)
                problem = judge_running(grant.uuids, inventory) if grant else None
                if problem is not None:
                    on_lost(holder, _verdict(problem))

    async def _look(self, *, thorough: bool = False) -> GpuInventory:
        inventory = await (self._host.check() if thorough else self._host.read())
        for change in self._book.observe(inventory, self._clock()):
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
