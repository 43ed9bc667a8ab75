"""Awaits what an author's async code returns: on one event loop, in a thread of its own, for all of it."""

from __future__ import annotations

import contextvars
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from plugin_runtime.run_context import Cancellation

EX_SOFTWARE = 70  # sysexits.h


class Outcome(NamedTuple):
    """`error` is None where the step succeeded."""

    value: Any = None
    error: BaseException | None = None


def is_awaitable(value: Any) -> bool:
    """Coroutines, futures, and whatever else `await` takes."""
    return hasattr(type(value), "__await__") or _is_iterable_coroutine(value)


def wait_for(awaitable: Any, cancelled_by: Cancellation | None = None) -> Outcome:
    """Await on the loop, and wait for that in the calling thread. Never raises what the awaitable raises."""
    outcome: Outcome = _run_in_loop(_guard(awaitable, cancelled_by))
    return outcome


def wait_for_set_up(awaitable: Any) -> Any:
    """The awaitable's value. Raises what it raises. Context variables that it sets hold in the calling thread."""
    # So that they hold in the tools too: each starts with a copy of its thread's context.
    context = contextvars.copy_context()
    outcome: Outcome = _run_in_loop(_guard(awaitable, None), context)
    before = contextvars.copy_context()
    for variable, value in context.items():
        if variable not in before or before[variable] is not value:
            variable.set(value)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def exit_if_forked(pid: int) -> None:
    """End this process if it is a child of the process `pid`."""
    # The child of a tool that forked and let it return must not answer the caller a second time.
    if os.getpid() != pid:
        os._exit(EX_SOFTWARE)


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
    exit_if_forked(pid)
    return outcome


def _is_iterable_coroutine(value: Any) -> bool:
    # Of `types.coroutine`: a generator that can be awaited, and nothing else.
    code = getattr(value, "gi_code", None)
    return code is not None and bool(code.co_flags & 0x100)  # inspect.CO_ITERABLE_COROUTINE


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _run_in_loop(awaitable: Awaitable[Any], context: contextvars.Context | None = None) -> Any:
    import asyncio  # noqa: PLC0415 - 6 MB and 30 ms that plugins without async code need not pay

    async def wait() -> Any:
        if context is None:
            return await awaitable
        return await asyncio.get_running_loop().create_task(wait_within(), context=context)

    async def wait_within() -> Any:
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
