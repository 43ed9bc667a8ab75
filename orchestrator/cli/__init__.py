"""The operator's command line. `serve` runs the orchestrator; everything else is a client of its HTTP API."""

from orchestrator.cli.commands import main

__all__ = ["main"]
