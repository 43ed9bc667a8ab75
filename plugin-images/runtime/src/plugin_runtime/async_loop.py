"""The one event loop for async tools, in a thread of its own, started by the first that needs it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run_in_loop(awaitable: Awaitable[Any]) -> Any:
    """Wait for it in the calling thread. `awaitable` must not raise SystemExit or KeyboardInterrupt: asyncio lets
    these end the loop.
    """
    import asyncio  # noqa: PLC0415 - 6 MB and 30 ms that plugins without async tools need not pay

    async def wait() -> Any:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(wait(), _the_loop()).result()


def _the_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # noqa: PLC0415 - as above

    global _loop  # noqa: PLW0603 - one per process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="async-tools", daemon=True).start()
        return _loop
