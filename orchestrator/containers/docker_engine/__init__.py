"""Docker Engine behind the protocol of `containers.engine`.

Owns: everything that is Docker's (its SDK, its JSON, its streams). `client` is the only module that imports the SDK;
the rest are plain functions over Docker's JSON, or threads. Must not know: plugins, what a container is for.
"""

from orchestrator.containers.docker_engine.bounds import Bounds
from orchestrator.containers.docker_engine.engine import DockerEngine

__all__ = ["Bounds", "DockerEngine"]
