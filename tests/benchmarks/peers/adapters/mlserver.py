"""MLServer: a pool of worker processes that all models share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.contestant import Call, Setup, Tool
from benchmarks.peers.peer import Launch, Peer, json_arguments, json_body
from benchmarks.processes import free_port

_SETTINGS = {
    "host": "127.0.0.1",
    "gzip_enabled": False,  # it streams only so
    "metrics_endpoint": None,
    "debug": False,
}
_TOOLS, _STREAMS = "tools", "streams"


class MLServer(Peer):
    name = "mlserver"
    title = "MLServer 1.7.1"
    isolation = "one worker process for all plugins together, beside the server's; no container, no limit of memory"
    requirements = ("mlserver==1.7.1", "uvloop<0.22")  # it does not start with a newer uvloop

    def servers(self, setup: Setup) -> Mapping[str, Setup]:
        """A second one streams, without worker processes: with them `infer_stream` calls `predict`, and only once."""
        tools = {_TOOLS: replace(setup, for_load=False)}
        return tools | {_STREAMS: Setup(setup.plugins, for_load=True)} if setup.for_load else tools

    def server_of(self, plugin: str, tool: Tool) -> str:
        return _STREAMS if tool is Tool.ITEMS else _TOOLS

    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        workers = {"parallel_workers": 0 if setup.for_load else 1}
        ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
        models = {
            f"{plugin}/model-settings.json": json.dumps({"name": plugin, "implementation": "mlserver_app.Tools"})
            for plugin in setup.plugins
        }
        command = [python.with_name("mlserver"), "start", "."]
        return Launch(command, {}, {"settings.json": json.dumps(_SETTINGS | workers | ports), **models})

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        arguments = {"tool": tool, **json_arguments(tool, content)}
        inputs = [
            {
                "name": name,
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"content_type": "str"},
                "data": [str(value)],
            }
            for name, value in arguments.items()
        ]
        action = "infer_stream" if tool is Tool.ITEMS else "infer"
        return Call(f"/v2/models/{plugin}/{action}", json_body({"inputs": inputs}))

    def health(self, plugin: str) -> Sequence[str]:
        return (f"/v2/models/{plugin}/ready", "/v2/health/ready")
