"""LitServe: FastAPI with a worker process for each API."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.contestant import Call, Setup, Tool
from benchmarks.peers.peer import APPS, Launch, Peer, json_arguments, json_body, multipart


class LitServe(Peer):
    name = "litserve"
    title = "LitServe 0.2.19"
    isolation = "a process for each plugin, of the same user; no container, no limit of memory"
    requirements = ("litserve==0.2.19", "python-multipart")  # for uploads; it does not bring it

    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        return Launch([python, APPS / "litserve_app.py"], {}, {})

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        if tool is Tool.DIGEST:
            return Call(f"/{plugin}", *multipart("data", content))
        path = f"/{plugin}/items" if tool is Tool.ITEMS else f"/{plugin}"
        return Call(path, json_body({"tool": tool, **json_arguments(tool, content)}))

    def health(self, plugin: str) -> Sequence[str]:
        return ("/health",)
