"""The answers of the tool socket, and what is kept of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.http_head import response_head
from plugin_runtime.kept_answers import KeptAnswer, KeptBytes
from plugin_runtime.refusals import Refusal, Refused

if TYPE_CHECKING:
    from plugin_runtime.authoring import Progress
    from plugin_runtime.wire import Wire

JSON = "application/json"


class Collection:
    """The items of a generator whose answer is kept, as the one list that it will be.

    More than `max_bytes` of them make no answer: the list is given up, and the stream may go on.
    """

    def __init__(self, scratch: str, max_bytes: int) -> None:
        self.progress: Progress | None = None
        self.problem: Refusal | None = None
        self._body = KeptBytes(scratch)
        self._body.write(b'{"ok":true,"result":[')
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._first = True

    def add(self, encoded: bytes) -> None:
        """The next item, as JSON."""
        self._left -= len(encoded) + 1
        if self._left < 0 and self.problem is None:
            text = f"the items together are over the limit of {self._max_bytes} bytes; ask for a stream"
            self.problem = Refused("invalid_output", text).refusal
        if self.problem is not None:
            return
        try:
            self._body.write(encoded if self._first else b"," + encoded)
        except Refused as refused:
            self.problem = refused.refusal
        self._first = False

    def answer(self, milliseconds: float, oom_kills: int) -> KeptAnswer | None:
        """None where there was a problem."""
        end: dict[str, Any] = {"execution_time_ms": milliseconds}
        if self.progress is not None:
            end["progress"] = {"fraction": self.progress.fraction, "message": self.progress.message}
        try:
            self._body.write(b"],", msgspec.json.encode(end)[1:])
        except Refused as refused:
            self.problem = refused.refusal
        return None if self.problem else KeptAnswer(200, self._body, oom_kills)


def kept(scratch: str, status: int, body: bytes, oom_kills: int) -> KeptAnswer:
    """`body` as it is; where there is no room for it, the refusal that says so."""
    content = KeptBytes(scratch)
    try:
        content.write(body)
    except Refused as refused:
        return kept(scratch, refused.refusal.status, refusal_body(refused.refusal), oom_kills)
    return KeptAnswer(status, content, oom_kills)


def send_kept(wire: Wire, answer: KeptAnswer, *, keep_alive: bool) -> None:
    """The answer, once more."""
    wire.send(response_head(answer.status, JSON, answer.body.size, keep_alive=keep_alive, oom_kills=answer.oom_kills))
    for part in answer.body.parts():
        wire.send(part)


def refusal_body(refusal: Refusal) -> bytes:
    """Of an answer that is a refusal."""
    return msgspec.json.encode({"ok": False, **told(refusal)})


def told(refusal: Refusal) -> dict[str, Any]:
    """A refusal's members of an answer."""
    members = refusal._asdict()
    if refusal.traceback is None:
        del members["traceback"]
    return members


def end_event(refusal: Refusal | None, items: int, milliseconds: float, oom_kills: int) -> bytes:
    """The last line of a stream."""
    outcome: dict[str, Any] = {"items": items, "execution_time_ms": milliseconds} if refusal is None else told(refusal)
    if oom_kills:
        outcome["oom_kills"] = oom_kills
    return msgspec.json.encode({"event": "end", "ok": refusal is None, **outcome}) + b"\n"


def log(text: str) -> None:
    """To the container's log, past whatever the plugin made of sys.stderr."""
    try:
        os.write(2, text.encode())
    except OSError:
        return
