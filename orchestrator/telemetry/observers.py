"""Composite of run observers. A module of its own, since none of the observers knows another."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.tools.run_observer import RunObserver, RunWatch


def together(*observers: RunObserver) -> RunObserver:
    """One observer instead of several. The first is entered first and exited last."""

    def watch(plugin: str, call: ToolCall) -> RunWatch:
        return _Composite([observe(plugin, call) for observe in observers])

    return watch


class _Composite(RunWatch):
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
