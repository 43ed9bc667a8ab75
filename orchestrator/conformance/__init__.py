"""Holds an image against the runtime protocol: what PROTOCOL.md demands and can be seen from outside, rule by rule.

Must not know: plugins, supervisors, the HTTP API. It starts a container as a plugin's would be, and asks it.
"""

from orchestrator.conformance.check import ANY_ENTRYPOINT, Result, check_image

__all__ = ["ANY_ENTRYPOINT", "Result", "check_image"]
