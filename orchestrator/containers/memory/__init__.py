"""`MemoryEngine`: a container engine without containers, the fake that ships beside the real one.

Owns: containers that are coroutines in this process (`container`), images without content (`images`), and the faults
that a test can set. It meets the contract of `ContainerEngine` as Docker Engine does, down to the order of events: one
test suite runs over both. Must not know: Docker, plugins, what a container is for.
"""

from orchestrator.containers.memory.container import Program, ProgramHandle, until_terminated
from orchestrator.containers.memory.engine import MemoryEngine

__all__ = ["MemoryEngine", "Program", "ProgramHandle", "until_terminated"]
