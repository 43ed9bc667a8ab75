"""What a run reports, as progress notifications that its client can keep up with; and the items that it yields."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from orchestrator.mcp.backend import MAX_CONTENT, BackendError

SILENCE: Final = 10.0
"""Seconds after which a client learns that its run still goes on: many give up after 60 without a word."""
_MAX_WAITING: Final = 256  # notifications for a slow client; the oldest are dropped, for its tool never waits
_MAX_MESSAGE: Final = 1000  # characters; the answer has whole items
_LAST_SECONDS: Final = 2.0  # for notifications that are left when the run has ended

Send = Callable[[float, float | None, str], Awaitable[None]]
"""Sends one notification: progress, total, message."""


class RunReport:
    """A `RunListener`. Entered while the run goes on; `wanted`: the client asked for notifications."""

    def __init__(self, send: Send, standing: Callable[[str], Awaitable[str]], *, wanted: bool) -> None:
        """`standing`: what a run does now, by its id."""
        self._send = send
        self._standing = standing
        self._wanted = wanted
        self._run_id: str | None = None
        self._waiting: deque[tuple[float, float | None, str]] = deque(maxlen=_MAX_WAITING)
        self._count = 0
        self._fraction: float | None = None
        self._size = 0
        self._ended = False
        self._wake = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self.items: list[Any] = []

    @property
    def too_large(self) -> bool:
        """Whether the items are over `MAX_CONTENT`, and so not all of them are here."""
        return self._size > MAX_CONTENT

    # As the listener of the run

    def begun(self, run_id: str) -> None:
        self._run_id = run_id

    def item(self, data: Any, size: int) -> None:
        self._size += size + 1
        if not self.too_large:
            self.items.append(data)
        if self._wanted:
            self._note(data if isinstance(data, str) else msgspec.json.encode(data).decode())

    def progress(self, fraction: float | None, message: str) -> None:
        self._fraction = fraction if fraction is not None else self._fraction
        self._note(message)

    # As the sender of notifications

    async def __aenter__(self) -> Self:
        if self._wanted:
            self._sender = asyncio.create_task(self._send_all(), name="progress of an MCP call")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sender is None:
            return
        try:
            if kind is None:
                self._ended = True
                self._wake.set()
                await asyncio.wait((self._sender,), timeout=_LAST_SECONDS)
        finally:
            self._sender.cancel()

    def _note(self, message: str) -> None:
        # Progress has to grow, whatever a tool reports: notifications are counted, and the total makes the fraction.
        self._count += 1
        total = round(self._count / self._fraction, 3) if self._fraction else None
        shown = message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"
        self._waiting.append((float(self._count), total, shown))
        self._wake.set()

    async def _send_all(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    await self._wake.wait()
            except TimeoutError:
                if self._run_id is not None:
                    with suppress(BackendError):
                        self._note(await self._standing(self._run_id))
            self._wake.clear()
            while self._waiting:
                await self._send(*self._waiting.popleft())
            if self._ended:
                return
