"""A receipt for a write: to be awaited by those who must know that it is kept, and left alone by the others."""

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import groupby
from typing import Any, Final

PATIENCE: Final = 2.0
"""Seconds that somebody waits for a receipt; a disk that takes longer does not hold up an answered run."""

_lock: Final = threading.Lock()
"""Guards `_stored` and `_waiters` of all receipts; held for a few instructions."""

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[bool]"]


def _nothing() -> None:
    pass


class Receipt:
    """`await receipt` is True once the write is kept, and False when it is not, or not in time. Never raises anything
    but cancellation.
    """

    __slots__ = ("_hurry", "_stored", "_waiters")

    def __init__(self, hurry: Callable[[], None] = _nothing, *, stored: bool | None = None) -> None:
        """`hurry` is called when somebody waits; `stored` is known from the start where there is nothing to wait
        for.
        """
        self._hurry = hurry
        self._stored = stored
        self._waiters: list[Waiter] = []

    def __await__(self) -> Generator[Any, None, bool]:
        if self._stored is not None:
            return self._stored
        return (yield from self._wait().__await__())

    async def _wait(self) -> bool:
        loop = asyncio.get_running_loop()
        with _lock:
            if self._stored is not None:
                return self._stored
            future: asyncio.Future[bool] = loop.create_future()
            self._waiters.append((loop, future))
        self._hurry()
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            return False


KEPT: Final = Receipt(stored=True)
NOT_KEPT: Final = Receipt(stored=False)


def settle(receipts: Iterable[Receipt], *, stored: bool) -> None:
    """Tell all who wait what became of these writes, each of their event loops in one go. From any thread."""
    waiters: list[Waiter] = []
    with _lock:
        for receipt in receipts:
            if receipt._stored is None:  # noqa: SLF001 - the other half of the same class, for a whole group
                receipt._stored = stored  # noqa: SLF001
                waiters += receipt._waiters  # noqa: SLF001
    waiters.sort(key=lambda waiter: id(waiter[0]))
    for _, of_loop in groupby(waiters, key=lambda waiter: id(waiter[0])):
        group = list(of_loop)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            group[0][0].call_soon_threadsafe(_resolve, [future for _, future in group], stored)


def _resolve(futures: list["asyncio.Future[bool]"], stored: bool) -> None:  # noqa: FBT001 - call_soon has no keywords
    for future in futures:
        if not future.done():
            future.set_result(stored)
