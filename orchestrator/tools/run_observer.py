"""What a ToolRunner tells of each run to whoever counts, logs or traces it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestrator.sandbox.call import RunResult, ToolCall


class RunWatch:
    """One run as it goes on. Whoever watches overrides what it wants to know; nothing here may raise."""

    def begun(self, call: ToolCall) -> ToolCall:
        """It waits no longer: the call is about to be made. Returns it, with the trace context for the plugin."""
        return call

    def ended(self, result: RunResult) -> None:
        """What came of it. Not told of a run that was cancelled."""


RunObserver = Callable[[str, ToolCall], AbstractContextManager[RunWatch]]
"""Entered when a run of this plugin is asked for, left when all about it is done."""


@contextmanager
def nobody_watches(_plugin: str, _call: ToolCall) -> Iterator[RunWatch]:
    yield RunWatch()
