"""KServe's model server: the tool runs on the server's own event loop."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.contestant import Call, Setup, Tool
from benchmarks.peers.peer import APPS, Launch, Peer, json_arguments, json_body


class KServe(Peer):
    name = "kserve"
    title = "kserve 0.21.0"
    isolation = "nothing: every plugin runs in the server's own process and on its event loop"
    requirements = ("kserve==0.21.0",)

    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        return Launch([python, APPS / "kserve_app.py"], {}, {})

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        arguments = {"tool": tool, **json_arguments(tool, content)}
        return Call(f"/v1/models/{plugin}:predict", json_body({"instances": [arguments]}))

    def health(self, plugin: str) -> Sequence[str]:
        return (f"/v1/models/{plugin}", "/v2/health/ready")
