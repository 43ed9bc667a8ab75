"""What a request asks for beside its route: `Prefer` (RFC 7240), and the stream that `Accept` names. Pure."""

import re
from typing import Final

NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
_STREAMS: Final = (NDJSON, SSE)

_PREFERENCE: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


def responds_async(prefer: str) -> bool:
    """Whether the `Prefer` headers, joined by commas, hold `respond-async`: the caller does not wait for the result."""
    return any(
        re.split(r"[=;]", preference, maxsplit=1)[0].strip().lower() == "respond-async"
        for preference in _PREFERENCE.findall(prefer)
    )


def wanted_stream(accept: str) -> str | None:
    """The stream that an `Accept` header names; of several that with the highest `q`, then the first. None for none:
    one answer at once. Wildcards ask for no stream.
    """
    wanted: dict[str, float] = {}
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name in _STREAMS:
            weights = [text[2:].strip() for text in parameters if text.startswith("q=")]
            wanted.setdefault(name, _weight(weights[0]) if weights else 1.0)
    best = max(wanted, key=lambda name: wanted[name], default=None)
    return best if best is not None and wanted[best] > 0 else None


def _weight(text: str) -> float:
    """What is no weight refuses, as zero does."""
    return float(text) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", text, re.ASCII) else 0.0
