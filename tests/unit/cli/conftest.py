"""An HTTP server with scripted answers, and the command line pointed at it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import commands, console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result


class Api:
    """Answers by path; 404 with `{}` for any other."""

    def __init__(self, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.turns: dict[str, list[tuple[int, Any]]] = {}
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        """Of every request, by name in lower case."""
        self.port = server.server_address[1]
        self._monkeypatch = monkeypatch

    def says(self, path: str, body: Any, status: int = 200) -> None:
        self.answers[path] = (status, body)

    def says_in_turn(self, path: str, *bodies: Any) -> None:
        """The last one again and again."""
        self.turns[path] = [(200, body) for body in bodies]

    def answer(self, path: str) -> tuple[int, Any]:
        turns = self.turns.get(path)
        if turns:
            return turns.pop(0) if len(turns) > 1 else turns[0]
        return self.answers.get(path, (404, {}))

    @staticmethod
    def plugin(**rest: Any) -> dict[str, Any]:
        """A plugin that has failed, as the list shows it."""
        return {
            "name": "echo",
            "state": "FAILED",
            "description": "says it again",
            "version": "0.1.0",
            "reason": "it ended",
            "reason_code": "CRASHED",
            "uptime_seconds": None,
            "success_count": 0,
            "error_count": 0,
            "last_execution_time_ms": None,
            "stale": False,
            "checks": [],
            **rest,
        }

    def call(self, *arguments: str, columns: int = 80) -> Result:
        for output in (console.console, console.errors):
            self._monkeypatch.setattr(output, "width", columns)
        return CliRunner().invoke(commands.command_line(arguments[0]), list(arguments))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            api.headers.append({name.lower(): value for name, value in self.headers.items()})
            if body:
                api.bodies.append(body)
            status, answer = api.answer(self.path.partition("?")[0])
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = Api(server, monkeypatch)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("ORCHESTRATOR_URL", f"http://127.0.0.1:{api.port}")
        yield api
        server.shutdown()
        thread.join()
