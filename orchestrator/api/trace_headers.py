"""The W3C trace context of a request: https://www.w3.org/TR/trace-context/."""

import re
from collections.abc import Mapping
from typing import Final

_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE: Final = re.compile(r"[\x20-\x7e\t]{1,512}")
"""As long as everyone must be able to pass on."""


def trace_context(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What of it may be passed on: a `traceparent` that is one, and the `tracestate` beside it."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _PARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent, "tracestate": state} if _STATE.fullmatch(state) else {"traceparent": parent}
