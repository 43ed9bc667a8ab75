"""The web page and its assets. Owns: what a browser loads, and the rules it loads it under. Must not know: plugins; the
page asks the HTTP API for everything, as any caller does.
"""

from orchestrator.dashboard.page import assets, router

__all__ = ["assets", "router"]
