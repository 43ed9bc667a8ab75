"""The entry point of the orchestrator's own image, and its health check."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.own_image.entrypoint import USER, socket_group
from orchestrator.own_image.healthcheck import answers


@pytest.mark.parametrize("form", ["{}", "unix://{}"])
def test_the_group_is_that_of_the_socket(tmp_path: Path, form: str) -> None:
    (tmp_path / "engine.sock").touch()
    assert socket_group(form.format(tmp_path / "engine.sock")) == (tmp_path / "engine.sock").stat().st_gid


def test_an_engine_behind_tcp_has_no_group() -> None:
    assert socket_group("tcp://127.0.0.1:2375") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop root")
def test_root_becomes_the_user_and_nothing_of_root_remains(tmp_path: Path) -> None:
    """With the group of the engine's socket, for good."""
    (tmp_path / "engine.sock").touch()
    os.chown(tmp_path / "engine.sock", 0, 4242)
    code = (
        "import os; from orchestrator.own_image import entrypoint as e;"
        f"e.become(e.USER, [e.socket_group({str(tmp_path / 'engine.sock')!r})]);"
        "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
        "try: os.setuid(0)\n"
        "except PermissionError: print('for good')"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[:2] == [f"{(USER,) * 3} {(USER,) * 3} [4242]", "for good"]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_health_check_queries_the_orchestrator(status: int, healthy: bool, host: str) -> None:
    """At the address that it listens on; over loopback if it listens on every address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        assert answers(host, server.server_port) is healthy


def test_where_nothing_listens_it_is_unhealthy() -> None:
    assert answers("127.0.0.1", 1) is False
