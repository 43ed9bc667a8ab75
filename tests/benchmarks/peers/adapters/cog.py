"""cog with coglet: an HTTP server in Rust, one worker process, one plugin: cog builds one image for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.contestant import Call, Setup, Tool
from benchmarks.peers.peer import APPS, Launch, Peer, json_arguments, json_body

_STREAM = "/items"
"""Ends the name of a plugin's server that streams."""
_SLOTS = 32
_STREAMS = {".cog/openapi_schema.json": '{"paths":{"/predictions":{"post":{"x-cog-streaming":true}}}}'}
"""What `cog build` writes for a runner that streams."""


class Cog(Peer):
    name = "cog"
    title = "cog 0.23.1 + coglet"
    isolation = (
        "a server and a worker process for each plugin, with no front; cog's images, which are not used here, "
        "would add a container"
    )
    requirements = ("cog==0.23.1", "coglet==0.23.1")

    def servers(self, setup: Setup) -> Mapping[str, Setup]:
        parts = {plugin: Setup((plugin,), broken=setup.broken) for plugin in setup.plugins}
        streams = {f"{plugin}{_STREAM}": Setup((plugin,), for_load=True) for plugin in parts}
        return parts | streams if setup.for_load else parts

    def server_of(self, plugin: str, tool: Tool) -> str:
        return f"{plugin}{_STREAM}" if tool is Tool.ITEMS else plugin

    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        runner = "Items" if setup.for_load else "Tools"
        variables = {
            "PORT": str(port),
            "COG_PREDICT_TYPE_STUB": f"{APPS / 'cog_app.py'}:{runner}",
            "COG_MAX_CONCURRENCY": str(_SLOTS),
            "COG_LOG_LEVEL": "warn",
        }
        command = [python, "-m", "cog.server.http", "--host", "127.0.0.1"]
        return Launch(command, variables, _STREAMS if setup.for_load else {})

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        arguments = json_arguments(tool, content)
        if tool is Tool.ITEMS:
            return Call("/predictions", json_body({"input": arguments}), headers={"Accept": "text/event-stream"})
        return Call("/predictions", json_body({"input": {"tool": tool, **arguments}}))

    def health(self, plugin: str) -> Sequence[str]:
        return ("/health-check",)
