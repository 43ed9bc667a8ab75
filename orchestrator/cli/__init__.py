"""The operator's command line. `serve` runs the orchestrator; most other commands are clients of its HTTP API.

One module per group of commands; `commands` lists them, `console` and `connection` are what they share.
"""

from orchestrator.cli.commands import main

__all__ = ["main"]
