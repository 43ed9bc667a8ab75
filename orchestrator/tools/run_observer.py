"""The protocol by which a ToolRunner reports each run to metrics, logs and traces."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import RunResult, ToolCall


class RunWatch:
    """An observer of one run: entered when it is requested, left when all of it is done. To be overridden; no method
    may raise.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last call."""

    def started(self, call: ToolCall) -> ToolCall:
        """The call is about to be made. Returns it, with the trace context for the plugin."""
        return call

    def ended(self, result: RunResult) -> None:
        """The run has ended. Not called where the orchestrator itself gave up on it."""


RunObserver = Callable[[str, ToolCall], RunWatch]
"""Makes the observer of one run of a plugin."""


def unobserved(_plugin: str, _call: ToolCall) -> RunWatch:
    return RunWatch()
