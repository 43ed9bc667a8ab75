"""What a ToolRunner tells of each run to whoever counts, logs or traces it."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import RunResult, ToolCall


class RunWatch:
    """One run as it goes on: entered when it is asked for, left when all about it is done. Whoever watches overrides
    what it wants to know; nothing here may raise.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing comes any more."""

    def begun(self, call: ToolCall) -> ToolCall:
        """It waits no longer: the call is about to be made. Returns it, with the trace context for the plugin."""
        return call

    def ended(self, result: RunResult) -> None:
        """What came of it. Not told of a run that was cancelled."""


RunObserver = Callable[[str, ToolCall], RunWatch]
"""Makes the watch over a run of this plugin."""


def nobody_watches(_plugin: str, _call: ToolCall) -> RunWatch:
    return RunWatch()
