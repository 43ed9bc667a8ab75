"""For tests of other projects: an orchestrator in a container with their plugins. Needs the extra `testing`.

with OrchestratorContainer(plugins="./plugins") as orchestrator:
    text = orchestrator.client.run("ocr", "read_text", image=Path("page.png"))
"""

from orchestrator.simulation.gpus import Gpu
from orchestrator.testing.faults import Calls, FaultRefusedError, Item, Orchestrator, calls, item
from orchestrator.testing.orchestrator_container import OrchestratorContainer
from orchestrator.testing.readiness import OrchestratorNotReadyError, PluginsReady
from orchestrator.testing.running import RunningOrchestrator
from orchestrator.testing.stand_in import StandIn

__all__ = [
    "Calls",
    "FaultRefusedError",
    "Gpu",
    "Item",
    "Orchestrator",
    "OrchestratorContainer",
    "OrchestratorNotReadyError",
    "PluginsReady",
    "RunningOrchestrator",
    "StandIn",
    "calls",
    "item",
]
