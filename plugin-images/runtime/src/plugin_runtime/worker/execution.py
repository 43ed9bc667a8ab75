"""Executing a tool: whatever its code does, the outcome is a value or the exception that it raised."""

from __future__ import annotations

import inspect
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from plugin_runtime import run_context
from plugin_runtime.authoring import InvalidInput
from plugin_runtime.tools.plugin_errors import message_of, plugin_traceback
from plugin_runtime.tools.refusals import Refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from plugin_runtime.run_context import Cancellation

EX_SOFTWARE = 70  # sysexits.h


class Outcome(NamedTuple):
    """`error` is None where the step succeeded."""

    value: Any = None
    error: BaseException | None = None


class ToolExecution:
    """Executes the steps of one call, and sums the time spent in the tool's own code."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @property
    def milliseconds(self) -> float:
        return round(self._seconds * 1000, 3)

    def run(self, step: Callable[..., Any], arguments: dict[str, Any]) -> Outcome:
        """Execute one step of the tool. Nothing that it raises ends the worker, SystemExit included."""
        pid = os.getpid()
        start = time.perf_counter()
        try:
            value = step(**arguments)
            if inspect.iscoroutine(value):
                value = _wait_for(value, run_context.current.get())
            outcome = value if isinstance(value, Outcome) else Outcome(value)
        except BaseException as error:  # noqa: BLE001 - plugin code
            outcome = Outcome(error=error)
        _exit_if_forked(pid)
        self._seconds += time.perf_counter() - start
        return outcome


class GeneratorSteps:
    """A generator tool, event by event."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._is_async = hasattr(generator, "__anext__")

    def next(self) -> Any:
        """Raises StopIteration or StopAsyncIteration at its end, else what it raises."""
        if self._is_async:
            return _wait_for(self._generator.__anext__(), run_context.current.get())
        return next(self._generator)

    def close(self) -> Outcome:
        """End it early, by GeneratorExit."""
        return ToolExecution().run(self._close, {})

    def _close(self) -> Any:
        return _wait_for(self._generator.aclose()) if self._is_async else self._generator.close()


def refusal_of(error: BaseException) -> Refusal:
    """The answer to a caller whose tool raised `error`."""
    name = type(error).__name__
    if isinstance(error, InvalidInput):
        return Refusal("invalid_input", message_of(error), name)
    return Refusal("exception", message_of(error), name, plugin_traceback(error))


def _exit_if_forked(pid: int) -> None:
    # The child of a tool that forked and let it return must not answer the caller a second time.
    if os.getpid() != pid:
        os._exit(EX_SOFTWARE)


# Async tools: one event loop, in a thread of its own, started by the first that needs it

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _wait_for(awaitable: Any, cancelled_by: Cancellation | None = None) -> Outcome:
    """Await on the loop, in the calling thread."""
    outcome: Outcome = _run_in_loop(_guard(awaitable, cancelled_by))
    return outcome


async def _guard(awaitable: Any, cancelled_by: Cancellation | None) -> Outcome:
    # An exception is returned as a value, because SystemExit and KeyboardInterrupt would end the loop.
    pid = os.getpid()
    try:
        if cancelled_by is not None:
            cancelled_by.attach()
        outcome = Outcome(await awaitable)
    except BaseException as error:  # noqa: BLE001 - plugin code
        outcome = Outcome(error=error)
    if cancelled_by is not None:
        cancelled_by.detach()
    _exit_if_forked(pid)
    return outcome


def _run_in_loop(awaitable: Awaitable[Any]) -> Any:
    import asyncio  # noqa: PLC0415 - 6 MB and 30 ms that plugins without async tools need not pay

    async def wait() -> Any:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(wait(), _event_loop()).result()


def _event_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # noqa: PLC0415 - as above

    global _loop  # noqa: PLW0603 - one per process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="async-tools", daemon=True).start()
        return _loop
