"""The answers of the tool socket, and those of them that are retained beyond their connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from plugin_runtime.http.head import chunk, response_head
from plugin_runtime.tools.output_files import Spool
from plugin_runtime.tools.refusals import Refusal, Refused

if TYPE_CHECKING:
    from plugin_runtime.authoring import Progress
    from plugin_runtime.http.connection import HttpServerConnection
    from plugin_runtime.tools.output_files import OutputFile, OutputFiles

JSON = "application/json"
OCTETS = "application/octet-stream"


def refusal_body(refusal: Refusal) -> bytes:
    """The body of an answer that is a refusal."""
    return msgspec.json.encode({"ok": False, **refusal_members(refusal)})


def refusal_members(refusal: Refusal) -> dict[str, Any]:
    """The members of an answer that a refusal fills."""
    members = refusal._asdict()
    for optional in ("traceback", "reason_code", "execution_time_ms"):
        if members[optional] is None:
            del members[optional]
    return members


def end_event(refusal: Refusal | None, items: int, milliseconds: float, oom_kills: int) -> bytes:
    """The last line of a stream."""
    if refusal is None:
        outcome: dict[str, Any] = {"items": items, "execution_time_ms": milliseconds}
    else:
        outcome = refusal_members(refusal)
    if oom_kills:
        outcome["oom_kills"] = oom_kills
    return msgspec.json.encode({"event": "end", "ok": refusal is None, **outcome}) + b"\n"


def result_body(encoded: bytes, milliseconds: float, files: OutputFiles) -> bytes:
    """The body of an answer that is a result."""
    announced = b',"files":%b' % msgspec.json.encode(files.documents()) if files else b""
    return b'{"ok":true,"result":%b,"execution_time_ms":%b%b}' % (encoded, str(milliseconds).encode(), announced)


class RetainedBody(Spool):
    """Written once, then read by any thread, any number of times."""

    def write(self, *chunks: bytes) -> None:  # type: ignore[override]
        """Raises Refused where the scratch folder has no room."""
        try:
            for data in chunks:
                super().write(data)
        except OSError as error:
            text = f"the result cannot be stored in the scratch folder: {error.strerror}"
            raise Refused("too_large", text) from error


class RetainedAnswer(NamedTuple):
    """What the call was answered, or would have been."""

    status: int
    body: RetainedBody
    oom_kills: int


class ItemCollector:
    """The items of a generator whose answer is retained, as the one list that it will be.

    More than `max_bytes` of them are a `problem` and make no answer; the stream may go on.
    """

    def __init__(self, scratch: str, max_bytes: int) -> None:
        self.progress: Progress | None = None
        self.problem: Refusal | None = None
        self._body = RetainedBody(scratch)
        self._body.write(b'{"ok":true,"result":[')
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._first = True

    def add(self, encoded: bytes) -> None:
        """The next item, as JSON."""
        self._left -= len(encoded) + 1
        if self._left < 0 and self.problem is None:
            text = f"the items together are over the limit of {self._max_bytes} bytes; request a stream"
            self.problem = Refused("invalid_output", text).refusal
        if self.problem is not None:
            return
        try:
            self._body.write(encoded if self._first else b"," + encoded)
        except Refused as refused:
            self.problem = refused.refusal
        self._first = False

    def answer(self, milliseconds: float, oom_kills: int, files: OutputFiles) -> RetainedAnswer | None:
        """None where there was a problem."""
        end: dict[str, Any] = {"execution_time_ms": milliseconds}
        if files:
            end["files"] = files.documents()
        if self.progress is not None:
            end["progress"] = {"fraction": self.progress.fraction, "message": self.progress.message}
        try:
            self._body.write(b"],", msgspec.json.encode(end)[1:])
        except Refused as refused:
            self.problem = refused.refusal
        return None if self.problem else RetainedAnswer(200, self._body, oom_kills)


def retained(scratch: str, status: int, body: bytes, oom_kills: int) -> RetainedAnswer:
    """`body` as it is; where there is no room for it, the refusal that says so."""
    content = RetainedBody(scratch)
    try:
        content.write(body)
    except Refused as refused:
        return retained(scratch, refused.refusal.status, refusal_body(refused.refusal), oom_kills)
    return RetainedAnswer(status, content, oom_kills)


def send_retained(connection: HttpServerConnection, answer: RetainedAnswer, *, keep_alive: bool) -> None:
    """Send the answer once more."""
    head = response_head(answer.status, JSON, answer.body.size, keep_alive=keep_alive, oom_kills=answer.oom_kills)
    connection.send(head)
    for data in answer.body.chunks():
        connection.send(data)


def send_file(connection: HttpServerConnection, file: OutputFile, *, keep_alive: bool) -> None:
    """Send a file of a result. Raises OSError where it cannot be read to its end."""
    # In chunks: a file that the plugin has changed since has another size than was announced.
    connection.send(response_head(200, OCTETS, None, keep_alive=keep_alive))
    for data in file.chunks():
        connection.send(chunk(data))
    connection.send(chunk(b""))
