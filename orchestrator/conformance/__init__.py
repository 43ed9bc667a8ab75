"""Checks an image against the runtime protocol: the rules of PROTOCOL.md that can be observed from outside.

It starts a container as a plugin's is started and calls its sockets. Must not know: instances, the HTTP API.
"""

from orchestrator.conformance.check import ANY_ENTRYPOINT, Result, check_image

__all__ = ["ANY_ENTRYPOINT", "Result", "check_image"]
