"""The orchestrator's application with a simulation in it."""

import asyncio

from fastapi import FastAPI

from orchestrator.app import create_app, docker_engine
from orchestrator.containers.engine import ContainerEngine
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.settings import Settings
from orchestrator.simulation.control import control_router
from orchestrator.simulation.engine import FaultyEngine
from orchestrator.simulation.marking import Marked
from orchestrator.simulation.simulation import Simulation, SimulationPlan


def create_simulated_app(
    settings: Settings,
    plan: SimulationPlan,
    *,
    engine: ContainerEngine | None = None,
    stop_plugins: bool = False,
    stop: asyncio.Event | None = None,
) -> FastAPI:
    """As `create_app`. Raises `FaultRefusedError` too, for a fault that cannot be there from the start on."""
    simulation = Simulation(
        plan, PluginLoader(settings.plugins_dirs), state_dir=settings.state_dir, run_dir=settings.run_dir
    )
    faulty = FaultyEngine(engine or docker_engine(settings), simulation)
    app = create_app(
        settings,
        engine=faulty.as_engine(),
        gpu_host=None if simulation.gpus is None else simulation.gpus.host(),
        stop_plugins=stop_plugins,
        stop=stop,
    )
    app.include_router(control_router(simulation, faulty))
    if app.middleware_stack is not None:
        app.middleware_stack = Marked(app.middleware_stack, simulation)
    return app
