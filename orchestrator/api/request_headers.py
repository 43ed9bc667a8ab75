"""Pure: the request headers that routes act on: `Accept`, `Prefer` (RFC 7240), W3C trace context."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

from orchestrator.errors import OrchestratorError
from orchestrator.formatting import quoted

NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
_STREAMS: Final = (NDJSON, SSE)
_JSON: Final = "application/json"
_JSON_RANGES: Final = frozenset({"", "*/*", "application/*", _JSON})
_RANGE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+*-]+|\*/\*", re.ASCII)
FRONT_RUN_ID: Final = "x-front-run-id"
"""A new id that a front has made for a run whose caller chose none."""
_READ: Final = frozenset(
    {
        b"accept",
        b"content-disposition",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"prefer",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        FRONT_RUN_ID.encode(),
        b"x-run-id",
    }
)

CORS_REQUEST_HEADERS: Final = (
    "Accept",
    "Authorization",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Type",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "If-None-Match",
    "traceparent",
    "tracestate",
    "X-Host",
    "X-Run-Id",
)
"""What pages of other sites may send, where they may call."""
CORS_RESPONSE_HEADERS: Final = (
    "Accept-Encoding",
    "Content-Disposition",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "X-Host",
    "X-Run-Id",
)
"""What they may read of an answer, beside its type and length."""

CODINGS: Final = ("gzip", "deflate", "identity")
"""The content codings of bodies that a runtime decodes."""
_DISPOSITION: Final = re.compile(r"[^\x00-\x1f\x7f]{1,2048}")  # that is passed on
_PREFERENCE: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_TRACE_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACE_STATE: Final = re.compile(r"[\x20-\x7e\t]{1,512}")  # the length that everyone must be able to pass on


def run_headers(raw: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """The headers that a run reads, by lower-case name; a repeated header becomes a comma-separated list."""
    found: dict[str, str] = {}
    for name, value in raw:
        if name in _READ:
            key, text = name.decode(), value.decode("latin-1")
            found[key] = f"{found[key]},{text}" if key in found else text
    return found


RESPOND_ASYNC: Final = "respond-async"
"""Preference of a caller that does not wait for the result."""
RETRY: Final = "retry"
"""Preference of a caller whose run may be made again, if its tool is idempotent and its instance dies under it."""


def preferences(prefer: str) -> frozenset[str]:
    """The names, in lower case, of what the `Prefer` headers, joined by commas, hold."""
    return frozenset(
        re.split(r"[=;]", preference, maxsplit=1)[0].strip().lower() for preference in _PREFERENCE.findall(prefer)
    )


def wanted_stream(accept: str) -> str | None:
    """The stream that an `Accept` header names: the one with the highest `q`, then the first. None where it names none:
    a wildcard does not request a stream.
    """
    if accept in _JSON_RANGES:  # nearly always
        return None
    wanted: dict[str, float] = {}
    for item in accept.split(","):
        name, *parameters = (field.strip().lower() for field in item.split(";"))
        if name in _STREAMS:
            weights = [text[2:].strip() for text in parameters if text.startswith("q=")]
            wanted.setdefault(name, _weight(weights[0]) if weights else 1.0)
    best = max(wanted, key=lambda name: wanted[name], default=None)
    return best if best is not None and wanted[best] > 0 else None


class AcceptedFile:
    """An `Accept` header that prefers a file of the result to the envelope."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights  # by media range

    @classmethod
    def wanted(cls, accept: str) -> Self | None:
        """None for a header that no file could satisfy better than JSON does."""
        if accept in _JSON_RANGES:  # nearly always
            return None
        weights: dict[str, float] = {}
        for item in accept.split(","):
            media_range, *parameters = (field.strip().lower() for field in item.split(";"))
            if _RANGE.fullmatch(media_range):
                quality = next((text[2:].strip() for text in parameters if text.startswith("q=")), "1")
                weights.setdefault(media_range, _weight(quality))
        header = cls(weights)
        others = [weight for name, weight in weights.items() if name not in _JSON_RANGES and name not in _STREAMS]
        return header if others and max(others) > header.quality(_JSON) else None

    def quality(self, media_type: str) -> float:
        """By the most specific range that it is in."""
        name = media_type.partition(";")[0].strip().lower()
        for media_range in (name, f"{name.partition('/')[0]}/*", "*/*"):
            if media_range in self._weights:
                return self._weights[media_range]
        return 0.0

    @property
    def takes_json(self) -> bool:
        return self.quality(_JSON) > 0

    def choose(self, media_types: Sequence[str]) -> int | None:
        """The index of the one that is preferred to JSON and to all others; None where there is no such."""
        weights = [self.quality(media_type) for media_type in media_types]
        best = max(weights, default=0.0)
        return weights.index(best) if best > self.quality(_JSON) and weights.count(best) == 1 else None


def _weight(text: str) -> float:
    """A malformed weight refuses, as zero does."""
    return float(text) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", text, re.ASCII) else 0.0


def trace_context(headers: Mapping[str, str]) -> Mapping[str, str]:
    """A valid `traceparent`, and the `tracestate` beside it: https://www.w3.org/TR/trace-context/."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not parent or not _TRACE_PARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent, "tracestate": state} if _TRACE_STATE.fullmatch(state) else {"traceparent": parent}


def body_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What describes the body beside its type, as the runtime gets it. Raises `UnknownCodingError`."""
    found = {}
    if "content-encoding" in headers and (coding := _coding(headers["content-encoding"])):
        found["Content-Encoding"] = coding
    disposition = headers.get("content-disposition")
    if disposition is not None and _DISPOSITION.fullmatch(disposition):
        found["Content-Disposition"] = disposition
    return found


class UnknownCodingError(OrchestratorError):
    """No runtime decodes this body."""


def _coding(content_encoding: str) -> str:
    """`gzip` or `deflate`; empty for a body that is not compressed."""
    named = [name for item in content_encoding.split(",") if (name := item.strip().lower()) not in {"", "identity"}]
    coding = "gzip" if named == ["x-gzip"] else "".join(named)
    if len(named) > 1 or coding not in {"", *CODINGS}:
        sentence = f"A body in the Content-Encoding {quoted(content_encoding)} cannot be read; it may be in one of"
        raise UnknownCodingError(f"{sentence} {', '.join(CODINGS)}.")
    return coding
