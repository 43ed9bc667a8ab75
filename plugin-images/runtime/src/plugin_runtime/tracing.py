"""The trace that a run is a part of: https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False  # see authoring
if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS = ("traceparent", "tracestate")

_current: ContextVar[dict[str, str] | None] = ContextVar("trace", default=None)


def take_trace(headers: Mapping[str, str]) -> None:
    """What is executed from here on belongs to the trace that these headers of a request name, or to none."""
    _current.set({name: headers[name] for name in HEADERS if name in headers})


def trace_context() -> dict[str, str]:
    """The headers `traceparent` and, where there is one, `tracestate` of the run whose code is executed here; empty
    where its caller does not trace. For a tracer to continue, or to be sent along with a request.

    A thread that the tool started itself is told nothing: ask before, and hand it over.
    """
    return dict(_current.get() or {})
