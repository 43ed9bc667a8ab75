"""Server-sent events of a host, from bytes as they come. Pure."""

from collections.abc import Iterator
from typing import Final, NamedTuple

_MAX_EVENT: Final = 16 * 1024 * 1024  # bytes


class SentEvent(NamedTuple):
    """`kind`: `lifecycle`, `health`, `removed` or `cut`; `id`: empty where it has none."""

    kind: str
    id: str
    data: bytes


class SseEvents:
    """Bytes in, whole events out. Only line feeds end a line, as an orchestrator writes them; comments are skipped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[SentEvent]:
        """Raises `ValueError` for an event without an end."""
        *whole, self._rest = (self._rest + chunk).split(b"\n\n")
        if len(self._rest) > _MAX_EVENT:
            raise ValueError(f"an event of over {_MAX_EVENT} bytes")
        for text in whole:
            fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if b": " in line and line[:1] != b":")
            if b"data" in fields:
                yield SentEvent(fields.get(b"event", b"").decode(), fields.get(b"id", b"").decode(), fields[b"data"])
