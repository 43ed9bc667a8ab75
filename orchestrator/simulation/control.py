"""The routes by which a test asks for faults: `/testing`, and below it. They need a key that may operate."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Response

from orchestrator.api.context import ApiContext, Context
from orchestrator.api.problems import problem
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import LifecycleEvent
from orchestrator.simulation.engine import FaultyEngine
from orchestrator.simulation.faults import Fault, FaultRefusedError, Place
from orchestrator.simulation.simulation import Simulation

PATH: Final = "/testing"


class _Losses:
    """GPUs that the driver reports as lost from the moment on that a tool has lost them."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._awaited: dict[str, tuple[str, ...]] | None = None
        """Plugin → UUIDs."""

    def expect(self, context: ApiContext, plugin: str, uuids: tuple[str, ...]) -> None:
        if self._awaited is None:
            self._awaited = {}
            context.registry.subscribe(self._changed)
        self._awaited[plugin] = uuids

    def _changed(self, event: LifecycleEvent) -> None:
        if event.reason_code is ReasonCode.GPU_LOST and self._awaited is not None:
            self._simulation.lose(self._awaited.pop(event.plugin, ()))


def control_router(simulation: Simulation, engine: FaultyEngine) -> APIRouter:
    """The routes over this simulation."""
    router, losses = APIRouter(prefix=PATH, tags=["testing"]), _Losses(simulation)

    @router.get("")
    async def report() -> dict[str, Any]:
        """The process, the faults that are asked for, and the simulated GPUs."""
        return {"process": os.getpid(), **simulation.report()}

    def begun(context: ApiContext, fields: Mapping[str, Any]) -> tuple[Fault, str]:
        fault = Fault.of(fields)
        record = context.registry.get(fault.plugin)
        uuids = tuple(str(gpu["uuid"]) for gpu in record.gpus) if record else ()
        if fault.place is Place.LOSS and not uuids:
            raise FaultRefusedError(f"{fault.plugin} has no GPU that it could lose: start it first.")
        tools = frozenset(str(tool["name"]) for tool in record.tools) if record else frozenset[str]()
        number = simulation.arm(fault, generation=record.generation if record else 0, tools=tools)
        if fault.place is Place.LOSS:
            simulation.lose(uuids)
        elif fault.code == ReasonCode.GPU_LOST:
            losses.expect(context, fault.plugin, uuids)
        return fault, number

    @router.post("/faults", response_model=None)
    async def arm(context: Context, fields: Annotated[dict[str, Any], Body()]) -> dict[str, Any] | Response:
        """Have a fault happen from now on. `place` and `restarts` say what the test's side has to do."""
        try:
            fault, number = begun(context, fields)
        except (FaultRefusedError, TypeError, ValueError) as error:
            return problem(422, str(error), error_type="FaultRefused", plugin=str(fields.get("plugin", "")))
        return {"id": number, "place": fault.place, "restarts": fault.restarts}

    @router.delete("/faults/{number}")
    async def disarm(number: str, context: Context) -> dict[str, Any]:
        """Take a fault back; no error for one that is not there."""
        plugin = simulation.disarm(number)
        record = context.registry.get(plugin) if plugin is not None else None
        if record is not None:
            simulation.touch(record.name, record.generation)
        await engine.relent()
        return simulation.report()

    return router
