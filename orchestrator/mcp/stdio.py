"""MCP on stdin and stdout, for desktop clients: a bridge to a running orchestrator."""

from mcp.server.stdio import stdio_server

from orchestrator.client import AsyncClient
from orchestrator.mcp.remote import RemoteBackend
from orchestrator.mcp.server import ToolServer


async def serve_stdio(client: AsyncClient) -> None:
    """Serve one client until it closes stdin."""
    async with client, stdio_server() as (reading, writing):
        server = ToolServer(RemoteBackend(client), base_url=client.address, max_watchers=8)
        try:
            await server.run(reading, writing, server.create_initialization_options())
        finally:
            server.close_streams()
