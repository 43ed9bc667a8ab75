#!/usr/bin/env bash
# mcp: a session over HTTP says that the list of tools never changes, whatever the server does; the same server on stdin and stdout can say that it does.
#
# Seen with mcp 2.3.0 on Python 3.11. Server.run takes initialization options, and so NotificationOptions(tools_changed=True). StreamableHTTPSessionManager takes
# none, and begins each session of an older client with those that Server.create_initialization_options() makes without arguments:
#   "capabilities": {"tools": {"listChanged": false}}
# A client that goes by this does not listen. Clients of 2026-07-28 are told otherwise (server/discover). The way round is a subclass of Server whose
# create_initialization_options has another default.
#
# Needs python3 with venv, and a package index. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0

cat >"$work/look.py" <<'EOF'
import asyncio

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server


class Changing(Server):
    def create_initialization_options(self, options=None, *others):
        from mcp.server.lowlevel import NotificationOptions

        return super().create_initialization_options(options or NotificationOptions(tools_changed=True), *others)


async def no_tools(ctx, params):
    return types.ListToolsResult(tools=[])


async def said(kind):
    app = kind("look", on_list_tools=no_tools).streamable_http_app()
    async with app.router.lifespan_context(app):
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:1") as http:
            async with Client(streamable_http_client("http://127.0.0.1:1/mcp", http_client=http), mode="legacy") as client:
                return client.server_capabilities.tools.list_changed


print(asyncio.run(said(Server)), asyncio.run(said(Changing)))
EOF
shown=$("$work/venv/bin/python" "$work/look.py" 2>"$work/log" || { tail -n 5 "$work/log" >&2; exit 2; })
echo "Server: ${shown% *}, with another default: ${shown#* }"
if [ "$shown" != "False True" ]; then
	echo "the behaviour has changed" >&2
	exit 1
fi
