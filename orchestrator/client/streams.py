"""Streams: from bytes to lines, and from lines and server-sent events to values. Nothing is read here."""

import json
from collections.abc import Iterator
from typing import Any, Final

from httpx_sse import ServerSentEvent

from orchestrator.client.errors import UnexpectedAnswer, Unreachable, error_of
from orchestrator.client.models import Begun, End, Envelope, Item, Progress, StreamEvent
from orchestrator.client.transport import Answer, Request

NDJSON: Final = "application/x-ndjson"
_SSE: Final = "text/event-stream"
MAX_SILENCE: Final = 60.0
"""Seconds without data after which a connection counts as dead: four heartbeats."""
PAUSE: Final = 0.5
"""Seconds before reconnecting to a stream that ended."""


class Lines:
    """Bytes in, whole lines out. Only line feeds end a line: other separators are text in JSON and in logs.

    `skip_empty`: in streams, empty lines are heartbeats.
    """

    def __init__(self, *, skip_empty: bool = True) -> None:
        self._rest = bytearray()
        self._skip_empty = skip_empty

    def feed(self, chunk: bytes) -> Iterator[str]:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            if self._rest or line or not self._skip_empty:
                yield (bytes(self._rest) + line).decode("utf-8", "replace")
            self._rest.clear()
        self._rest += rest

    def finish(self) -> Iterator[str]:
        if self._rest:
            yield self._rest.decode("utf-8", "replace")


class RunEvents:
    """The events of one streamed run. A failed run raises its error at the end."""

    def __init__(self, media_type: str, run_id: str) -> None:
        self.streams = media_type.partition(";")[0].strip() == NDJSON
        self.run_id = run_id
        self._lines = Lines()
        self._ended = False

    def first(self) -> StreamEvent:
        return Begun(self.run_id)

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        for text in self._lines.feed(chunk):
            line = _object(text)
            match line.get("event"):  # others, such as `heartbeat`, say nothing of the run
                case "item":
                    yield Item(line.get("data"))
                case "progress":
                    yield Progress(line.get("fraction"), line.get("message") or "")
                case "end":
                    self._ended = True
                    yield self._end(line)

    def finish(self) -> None:
        """Raises `Unreachable` if the stream broke off."""
        if not self._ended:
            raise self.broken_off()

    def broken_off(self) -> Unreachable:
        return Unreachable("The run's stream broke off before its end.", envelope={"run_id": self.run_id})

    @staticmethod
    def whole(answer: Answer) -> StreamEvent:
        """The end of a run whose tool does not stream."""
        return End(answer.as_envelope())

    @staticmethod
    def _end(line: dict[str, Any]) -> StreamEvent:
        envelope: Envelope = {name: value for name, value in line.items() if name not in ("event", "status")}  # type: ignore[assignment]
        if not envelope.get("ok"):
            status = line.get("status")
            raise error_of(status if isinstance(status, int) else None, envelope)
        return End(envelope)


class EventFeed:
    """A stream of server-sent events that resumes after the last event when it reconnects."""

    def __init__(self, path: str, *, kind: str, after: int | str | None = None) -> None:
        """`kind`: which events to read, `lifecycle` or `health`."""
        self._path = path
        self._kind = kind
        self._last = after  # a number; a front over several hosts has a text

    def request(self) -> Request:
        headers = {"Accept": _SSE, "Cache-Control": "no-store"}
        if self._last is not None:
            headers["Last-Event-ID"] = str(self._last)
        params = {"include": "health"} if self._kind == "health" else {}
        return Request("GET", self._path, params=params, headers=headers, read_timeout=MAX_SILENCE)

    def take(self, event: ServerSentEvent) -> Any:
        """The event's data; None for another kind of event."""
        if event.id:
            self._last = event.id
        if event.event == "removed" and self._kind == "health":
            return {**_object(event.data), "removed": True}
        return _object(event.data) if event.event == self._kind else None


def whole_run(answer: Answer) -> Envelope:
    """The envelope of a run, also where its answer is a stream: with all items as the result."""
    events = RunEvents(answer.headers.get("content-type", ""), answer.headers.get("x-run-id", ""))
    if not events.streams:
        found: Envelope = answer.as_envelope()
        return found
    items: list[Any] = []
    for event in events.feed(answer.body):
        match event:
            case Item(data):
                items.append(data)
            case End(envelope):
                return {**envelope, "result": items} if items and envelope.get("result") is None else envelope
    raise events.broken_off()


def _object(text: str) -> dict[str, Any]:
    """A JSON object. Raises `UnexpectedAnswer`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnexpectedAnswer("A line of the stream is no JSON object. Is that the orchestrator?")
    return found
