"""Running a tool: whatever it does, what comes back is a value or the exception that it raised."""

from __future__ import annotations

import inspect
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from plugin_runtime import cancellation
from plugin_runtime.async_loop import run_in_loop
from plugin_runtime.authoring import InvalidInput
from plugin_runtime.failures import message_of
from plugin_runtime.refusals import Refusal
from plugin_runtime.tracebacks import plugin_traceback

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.cancellation import Cancellation

EX_SOFTWARE = 70


class Outcome(NamedTuple):
    """`error` is None where the step came to its end."""

    value: Any = None
    error: BaseException | None = None


class Stopwatch:
    """Milliseconds spent in the tool's own code."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @property
    def milliseconds(self) -> float:
        """So far."""
        return round(self._seconds * 1000, 3)

    def run(self, step: Callable[..., Any], arguments: dict[str, Any]) -> Outcome:
        """One step of the tool, with whatever it raises: SystemExit ends no worker."""
        pid = os.getpid()
        begin = time.perf_counter()
        try:
            value = step(**arguments)
            if inspect.iscoroutine(value):
                value = _finish(value, cancellation.current.get())
            outcome = value if isinstance(value, Outcome) else Outcome(value)
        except BaseException as error:  # noqa: BLE001 - plugin code
            outcome = Outcome(error=error)
        _leave_if_forked(pid)
        self._seconds += time.perf_counter() - begin
        return outcome


class Steps:
    """A generator tool, event by event. `close` ends it early."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._is_async = hasattr(generator, "__anext__")

    def next(self) -> Any:
        """Raises StopIteration or StopAsyncIteration at its end, else what it raises."""
        if self._is_async:
            return _finish(self._generator.__anext__(), cancellation.current.get())
        return next(self._generator)

    def close(self) -> Outcome:
        """Throw GeneratorExit into it. What it does then is its own affair."""
        return Stopwatch().run(self._close, {})

    def _close(self) -> Any:
        return _finish(self._generator.aclose()) if self._is_async else self._generator.close()


def refusal_of(error: BaseException) -> Refusal:
    """How an exception of the tool is told to the caller."""
    name = type(error).__name__
    if isinstance(error, InvalidInput):
        return Refusal("invalid_input", message_of(error), name)
    return Refusal("exception", message_of(error), name, plugin_traceback(error))


def _finish(awaitable: Any, cancelled_by: Cancellation | None = None) -> Outcome:
    """Wait for it on the loop; what it raises comes back as a value, because the loop dies of SystemExit."""
    outcome: Outcome = run_in_loop(_guard(awaitable, cancelled_by))
    return outcome


async def _guard(awaitable: Any, cancelled_by: Cancellation | None) -> Outcome:
    pid = os.getpid()
    try:
        if cancelled_by is not None:
            cancelled_by.attach()
        outcome = Outcome(await awaitable)
    except BaseException as error:  # noqa: BLE001 - plugin code
        outcome = Outcome(error=error)
    if cancelled_by is not None:
        cancelled_by.detach()
    _leave_if_forked(pid)
    return outcome


def _leave_if_forked(pid: int) -> None:
    """A tool that forked and let the child come back here: it must not answer the caller a second time."""
    if os.getpid() != pid:
        os._exit(EX_SOFTWARE)
