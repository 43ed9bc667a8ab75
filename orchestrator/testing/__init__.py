"""For tests of other projects: an orchestrator in a container with their plugins. Needs the extra `testing`.

with OrchestratorContainer(plugins="./plugins") as orchestrator:
    text = orchestrator.client.run("ocr", "read_text", image=Path("page.png"))
"""

from orchestrator.testing.orchestrator_container import OrchestratorContainer, OrchestratorNotReadyError

__all__ = ["OrchestratorContainer", "OrchestratorNotReadyError"]
