"""Cancelling a run: the caller asks, and the tool ends when it hears of it. Nothing is ended by force here."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False  # see authoring
if TYPE_CHECKING:
    import asyncio


class Cancellation:
    """Of one run. `asked`: somebody wants it to end; `told`: its tool has been told so when it asked."""

    __slots__ = ("_loop", "_task", "asked", "told")

    def __init__(self) -> None:
        self.asked = False
        self.told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def ask(self) -> None:
        """From any thread. Code that awaits is cancelled where it waits; other code has to look, or to yield."""
        self.asked = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)

    def attach(self) -> None:
        """The task of this moment is the tool's own code from now on."""
        import asyncio  # noqa: PLC0415 - only async tools come here

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self.asked:
            self._cancel()

    def detach(self) -> None:
        """The task has come to its end."""
        self._task = None

    def explains(self, error: BaseException | None) -> bool:
        """Whether a tool that ended so did it because it was asked to. asyncio's and concurrent.futures' own
        exceptions have one name.
        """
        return self.asked and (self.told or type(error).__name__ == "CancelledError")

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


executing: set[Cancellation] = set()
"""Those of the runs that execute now."""
current: ContextVar[Cancellation | None] = ContextVar("current", default=None)
"""That of the run whose code is executed here."""


def cancelled() -> bool:
    """Whether the run's caller wants it to end. A tool that computes for long asks this now and then, and returns or
    raises when it is true: what it returns then is dropped, and the plugin goes on.

    `async` tools need not ask: they are cancelled where they await; nor generators, which are closed where they yield.
    In a thread that the tool started itself this tells of the run that executes, or of all of them where there are
    several.
    """
    own = current.get()
    asked = {own} if own is not None else executing.copy()
    if not asked or not all(cancellation.asked for cancellation in asked):
        return False
    for cancellation in asked:
        cancellation.told = True
    return True
