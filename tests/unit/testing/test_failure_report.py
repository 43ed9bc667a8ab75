"""The report of a failed test names the instances that ended meanwhile, and why."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import msgspec
import pytest

from orchestrator.client import Client
from orchestrator.testing import Orchestrator
from orchestrator.testing.failure_report import sections

NOW = 1_795_000_000.0  # 2026-11-18
EARLIER, LATER = "2026-11-01T00:00:00+00:00", "2026-11-28T00:00:00+00:00"


def event(number: int, code: str | None, *, time: str = LATER, state: str = "FAILED") -> dict[str, Any]:
    return {
        "id": number,
        "time": time,
        "plugin": "detector",
        "generation": number,
        "state": state,
        "reason_code": code,
        "reason": f"It ended by {code}.",
    }


POST_MORTEM = {
    "exit_code": None,
    "signal": "SIGSEGV",
    "traceback": "",
    "stacks": "in detect\n",
    "build_output": "",
    "log_tail": "\n".join(f"line {number}" for number in range(100)),
}


class _Answers(BaseHTTPRequestHandler):
    events: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/v1/events"):
            self._send(200, self.events)
        elif self.path == "/v1/plugins/detector/post-mortem?generation=2":
            self._send(200, POST_MORTEM)
        else:
            self._send(404, {"ok": False, "error": "none", "error_type": "NoPostMortem"})

    def _send(self, status: int, body: Any) -> None:
        text = msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class Recorded(Orchestrator):
    """Answers what a test says, and has no container."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = Client(address, retries=0)

    client = property(lambda self: self._client)
    address = property(lambda self: self._address)
    api_key = property(lambda _: "po_key")

    def _own_container(self) -> Any:
        raise RuntimeError("there is none")


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    orchestrator = Recorded(f"http://127.0.0.1:{server.server_address[1]}")
    yield orchestrator
    orchestrator.client.close()
    server.shutdown()
    server.server_close()


def test_an_instance_that_ended_meanwhile_has_a_section(recorded: Recorded) -> None:
    """With its post-mortem and the end of its log; what ended before, or by a command, has none."""
    _Answers.events = [
        event(1, "TIMEOUT", time=EARLIER),
        event(2, "CRASHED"),
        event(3, "STOPPED", state="UNAVAILABLE"),
        event(4, None, state="INITIALIZED"),
    ]
    ((title, text),) = sections(recorded, since=NOW)
    assert title == "plugin detector: FAILED, CRASHED"
    assert text.splitlines()[:4] == ["It ended by CRASHED.", "signal: SIGSEGV", "--- stacks", "in detect"]
    assert "--- traceback" not in text
    assert text.splitlines()[-1] == "line 99" and "line 69" not in text


def test_without_a_post_mortem_the_reason_is_enough(recorded: Recorded) -> None:
    _Answers.events = [event(9, "MODEL_MISSING", state="UNAVAILABLE")]
    assert sections(recorded, since=NOW) == [
        ("plugin detector: UNAVAILABLE, MODEL_MISSING", "It ended by MODEL_MISSING.")
    ]


def test_one_that_does_not_answer_is_said_so() -> None:
    """A report of a failure must not fail itself."""
    silent = Recorded("http://127.0.0.1:9")
    ((title, text),) = sections(silent, since=NOW)
    assert (title, "does not answer" in text) == ("orchestrator", True)
    silent.client.close()
