"""BentoML: a service with its process for each plugin, behind a gateway service where there are several."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.contestant import PLUGIN, Call, Setup, Tool
from benchmarks.peers.peer import APPS, Launch, Peer, json_arguments, json_body, multipart


class BentoML(Peer):
    name = "bentoml"
    title = "BentoML 1.4.40"
    isolation = "a process for each plugin, of the same user, behind a gateway; no container, no limit of memory"
    requirements = ("bentoml==1.4.40",)

    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        command = [python.with_name("bentoml"), "serve", "bentoml_app:service", "--working-dir", APPS]
        command += ["--host", "127.0.0.1", "--port", str(port), "--do-not-track", "--quiet"]
        return Launch(command, {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "bentoml"}, {})

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        path = f"/{tool}" if plugin == PLUGIN else f"/{plugin}/{tool}"
        if tool is Tool.DIGEST:
            return Call(path, *multipart("data", content))
        return Call(path, json_body(json_arguments(tool, content)))

    def health(self, plugin: str) -> Sequence[str]:
        return ("/healthz", "/readyz")
