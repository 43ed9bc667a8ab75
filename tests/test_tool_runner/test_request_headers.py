"""The stream that an `Accept` header requests, and what a `Prefer` header holds."""

import pytest

from orchestrator.api.request_headers import preferences, wanted_stream

NDJSON, SSE = "application/x-ndjson", "text/event-stream"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("text/event-stream-x", None),
        (SSE, SSE),
        ("Text/Event-Stream", SSE),
        (f"{SSE};q=0", None),
        (f"{SSE}; Q=0.0, {NDJSON};q=0.1", NDJSON),
        (f"{SSE}, {NDJSON}", SSE),
        (f"{NDJSON}, {SSE}", NDJSON),
        (f"{NDJSON};q=0.5, {SSE};q=0.8", SSE),
        (f"application/json, {SSE};charset=utf-8;q=0.3", SSE),
        (f"{SSE};q=nan, ;,,", None),
        (f"{SSE};q=", None),
    ],
)
def test_the_stream_that_is_named_is_wanted(accept: str, wanted: str | None) -> None:
    assert wanted_stream(accept) == wanted


@pytest.mark.parametrize(
    ("prefer", "names"),
    [
        ("", set()),
        ("retry", {"retry"}),
        ("respond-async, retry", {"respond-async", "retry"}),
        ("Retry ; x=1,wait=10", {"retry", "wait"}),
        ('note="a, retry", respond-async', {"note", "respond-async"}),
        (' retry="", ,', {"retry", ""}),
        ("retrying", {"retrying"}),
    ],
)
def test_preferences_are_known_by_their_names(prefer: str, names: set[str]) -> None:
    """Several in one header, parameters and values beside them, and texts that hold a comma (RFC 7240)."""
    assert preferences(prefer) - {""} == names - {""}
