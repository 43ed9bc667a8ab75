"""Several observers of runs as one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.tools.run_observer import RunObserver, RunWatch


def together(*observers: RunObserver) -> RunObserver:
    """The first is entered first and left last."""

    @contextmanager
    def watch(plugin: str, call: ToolCall) -> Iterator[RunWatch]:
        with ExitStack() as stack:
            yield _Together([stack.enter_context(observe(plugin, call)) for observe in observers])

    return watch


class _Together(RunWatch):
    def __init__(self, watches: Sequence[RunWatch]) -> None:
        self._watches = watches

    def begun(self, call: ToolCall) -> ToolCall:
        for watch in self._watches:
            call = watch.begun(call)
        return call

    def ended(self, result: RunResult) -> None:
        for watch in self._watches:
            watch.ended(result)
