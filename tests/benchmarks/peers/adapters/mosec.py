"""mosec: an HTTP server in Rust, Python workers behind Unix sockets."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.contestant import Call, Setup, Tool
from benchmarks.peers.peer import APPS, Launch, Peer, json_arguments, json_body


class Mosec(Peer):
    name = "mosec"
    title = "mosec 0.9.8"
    isolation = (
        "a process for each plugin, of the same user; no container, no limit of memory; a dead worker ends the server"
    )
    requirements = ("mosec==0.9.8",)

    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        command = [python, APPS / "mosec_app.py", "--port", str(port), "--address", "127.0.0.1"]
        return Launch(command, {}, {})

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        if tool is Tool.DIGEST:
            return Call(f"/{plugin}", content, "application/octet-stream")
        path = f"/{plugin}/items" if tool is Tool.ITEMS else f"/{plugin}"
        return Call(path, json_body({"tool": tool, **json_arguments(tool, content)}))

    def health(self, plugin: str) -> Sequence[str]:
        return ("/",)
