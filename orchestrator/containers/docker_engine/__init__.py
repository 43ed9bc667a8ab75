"""Docker Engine behind the protocol of `containers.engine`.

Owns: everything that is Docker's, namely its SDK, its JSON and its streams. Must not know: plugins, what a container is
for. Where things are:

- what this engine is and can, and what it shares with this host: `capabilities`
- what it is sent: `bodies` (JSON), `build` (build contexts), `gateways` (containers beside those without a network)
- how its answers are read: `answers` (JSON), `decoding` (streams)
- how it is called: `calls` (threads and time limits), `streams` (long answers), `client` (the only module that imports
  the SDK; maps its exceptions)
"""

from orchestrator.containers.docker_engine.calls import Bounds
from orchestrator.containers.docker_engine.engine import DockerEngine

__all__ = ["Bounds", "DockerEngine"]
