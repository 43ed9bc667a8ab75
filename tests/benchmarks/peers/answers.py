"""One request by hand: what came back, and whether it is what the tool has to answer."""

import hashlib
import http.client
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load import Request
from benchmarks.peers.contestant import ITEMS, TEXT, Contestant, Running, Tool

_POLL = 0.005
_EXCERPT = 160


@dataclass(frozen=True)
class Answer:
    """`status` is None where none came; `text` is the body's, or says why none came. Seconds from the request on."""

    status: int | None
    text: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status is not None and self.status // 100 == 2

    def __str__(self) -> str:
        """Status, the beginning of the text in one line, and the time."""
        line = " ".join(self.text.split())
        return self._line(line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}…")

    def summary(self, tool: Tool) -> str:
        """The same; a good answer of that tool without its text."""
        return str(self) if fault_of(tool, b"", self) else self._line("with its result")

    def _line(self, text: str) -> str:
        took = f"{self.seconds:.3f} s" if self.seconds < 1 else f"{self.seconds:.1f} s"
        return f"{'no answer' if self.status is None else self.status} {text} ({took})".replace("  ", " ")

    def document(self) -> dict[str, Any]:
        return asdict(self)


def post(request: Request, seconds: float = 10.0) -> Answer:
    """Send it over a connection of its own; wait that long for each part of the answer."""
    return _exchange(request.target, request.content, seconds)


def get(target: str, path: str, seconds: float = 10.0) -> Answer:
    return _exchange(target, Request.get(target, path).content, seconds)


def _exchange(target: str, content: bytes, seconds: float) -> Answer:
    _, host, port = target.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=seconds)
    started = time.monotonic()
    try:
        connection.connect()
        assert connection.sock is not None
        connection.sock.sendall(content)
        response = http.client.HTTPResponse(connection.sock, method="POST")
        response.begin()
        status, body = response.status, response.read()
    except TimeoutError:
        return Answer(None, f"within {seconds:g} s", time.monotonic() - started)
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, _reason(error), time.monotonic() - started)
    finally:
        connection.close()
    return Answer(status, body.decode(errors="replace"), time.monotonic() - started)


def _reason(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case http.client.RemoteDisconnected() | ConnectionResetError() | http.client.IncompleteRead():
            return "connection closed"
        case _:
            return f"{type(error).__name__}: {error}"


def until_it_answers(contestant: Contestant, running: Running, plugin: str, within: float = 120) -> float:
    """Call echo until its result comes; return `time.monotonic()` of that answer. Raises RuntimeError if none comes."""
    call = contestant.call(Tool.ECHO, plugin, b"", 1).to(running.target(plugin, Tool.ECHO))
    end = time.monotonic() + within
    while fault := fault_of(Tool.ECHO, b"", post(call)):
        if ended := running.exited():
            raise RuntimeError(ended)
        if time.monotonic() > end:
            raise RuntimeError(f"no good answer within {within:.0f} s; the last: {fault}")
        time.sleep(_POLL)
    now = time.monotonic()
    running.pids()  # so that all of them can be ended, whatever becomes of their parents
    return now


def fault_of(tool: Tool, content: bytes, answer: Answer) -> str | None:
    """Why this is not the tool's answer; None if it is. Whatever a peer wraps it in, the result is in the text."""
    if not answer.ok:
        return str(answer)
    text = answer.text
    match tool:
        case Tool.ECHO if TEXT not in text:
            return f"the text is not in it: {answer}"
        case Tool.DIGEST if hashlib.sha256(content).hexdigest() not in text:
            return f"the digest is not in it: {answer}"
        case Tool.ITEMS if text.count("item-") < ITEMS or f"item-{ITEMS - 1}" not in text:
            return f"items are missing: {answer}"
    return None
