"""Several observers of runs as one."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.tools.run_observer import RunObserver, RunWatch


def together(*observers: RunObserver) -> RunObserver:
    """The first is entered first and left last."""

    def watch(plugin: str, call: ToolCall) -> RunWatch:
        return _Together([observe(plugin, call) for observe in observers])

    return watch


class _Together(RunWatch):
    def __init__(self, watches: Sequence[RunWatch]) -> None:
        self._watches = watches

    def __enter__(self) -> Self:
        for watch in self._watches:
            watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watch in reversed(self._watches):
            watch.__exit__(kind, error, trace)

    def started(self, call: ToolCall) -> ToolCall:
        for watch in self._watches:
            call = watch.started(call)
        return call

    def ended(self, result: RunResult) -> None:
        for watch in self._watches:
            watch.ended(result)
