"""What code of a tool can learn of its own run: whether it was cancelled, and the trace that it belongs to."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False  # see authoring
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

TRACE_HEADERS = ("traceparent", "tracestate")  # https://www.w3.org/TR/trace-context/


class GivenUp(BaseException):
    """Raised in a tool in the main thread that has not ended in time when the plugin is stopped."""


class Cancellation:
    """The cancellation of one run, which never ends the tool by force.

    `requested`: somebody wants the run to end. `observed`: its tool called `cancelled()` since and saw that.
    """

    __slots__ = ("_loop", "_task", "observed", "on_request", "requested")

    def __init__(self) -> None:
        self.requested = False
        self.observed = False
        self.on_request: Callable[[], None] | None = None
        """Called after each request, in any thread and in signal handlers."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def request(self) -> None:
        """Cancel async code where it awaits; other code has to call `cancelled()`, or to yield. For any thread."""
        self.requested = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)
        on_request = self.on_request
        if on_request is not None:
            on_request()

    def attach(self) -> None:
        """Make the current task the one to cancel: it runs the tool's code from now on."""
        import asyncio  # noqa: PLC0415 - only async tools come here

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self.requested:
            self._cancel()

    def detach(self) -> None:
        """Forget the task, which has ended."""
        self._task = None

    def explains(self, error: BaseException | None) -> bool:
        """Whether a tool that ended with `error` (None: it returned) ended because of this request."""
        # By name: asyncio and concurrent.futures each have a CancelledError.
        ended_by_it = type(error).__name__ == "CancelledError" or isinstance(error, GivenUp)
        return self.requested and (self.observed or ended_by_it)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


executing: set[Cancellation] = set()
"""Those of all runs that execute now."""
current: ContextVar[Cancellation | None] = ContextVar("current", default=None)
"""That of the run, or of the batch of runs, whose code executes in this context."""
_trace: ContextVar[dict[str, str] | None] = ContextVar("trace", default=None)


def cancelled() -> bool:
    """Whether the run's caller wants it to end. A tool that computes for long calls this now and then, and returns or
    raises once it is true: what it returns then is dropped, and the plugin goes on.

    `async` tools need no call: they are cancelled where they await; nor do generators, which are closed where they
    yield. In a batch this is true once all of its runs are cancelled. In a thread that the tool started itself this
    speaks of the run that executes; where several execute, it is true once all of them are cancelled.
    """
    own = current.get()
    runs = {own} if own is not None else executing.copy()
    if not runs or not all(cancellation.requested for cancellation in runs):
        return False
    for cancellation in runs:
        cancellation.observed = True
    return True


def set_trace(headers: Mapping[str, str]) -> None:
    """Make what executes from here on part of the trace that these headers of a request name, or of none."""
    _trace.set({name: headers[name] for name in TRACE_HEADERS if name in headers})


def trace_context() -> dict[str, str]:
    """The headers `traceparent` and, if any, `tracestate` of the run whose code executes here; empty where its caller
    does not trace. For a tracer to continue, or to send along with a request.

    Empty in a batch whose runs belong to several traces. Empty in a thread that the tool started itself: call this
    before, and pass the result on.
    """
    return dict(_trace.get() or {})
