"""`mcp`: serves the tools of a running orchestrator to an MCP client that starts this command."""

import asyncio

from orchestrator.cli.connection import checked_address, explained
from orchestrator.client import AsyncClient


def mcp() -> None:
    """Serve all tools to an MCP client, on stdin and stdout: a bridge to the running orchestrator.

    For desktop clients, which start such a command themselves. It reads ORCHESTRATOR_URL and ORCHESTRATOR_API_KEY.
    Clients that speak HTTP need no bridge: the orchestrator has /mcp.
    """
    from orchestrator.mcp.stdio import serve_stdio  # noqa: PLC0415 - takes a second, which --help need not wait for

    with explained():
        asyncio.run(serve_stdio(AsyncClient(checked_address())))
