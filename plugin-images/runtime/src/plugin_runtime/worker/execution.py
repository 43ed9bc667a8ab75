"""Executing a tool: whatever its code does, the outcome is a value or the exception that it raised."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from plugin_runtime import run_context
from plugin_runtime.authoring import InvalidInput
from plugin_runtime.tools.awaiting import Outcome, exit_if_forked, is_awaitable, wait_for
from plugin_runtime.tools.gpu_memory import GPU_OUT_OF_MEMORY, ran_out_of_gpu_memory
from plugin_runtime.tools.plugin_errors import message_of, plugin_traceback
from plugin_runtime.tools.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable


class ToolExecution:
    """Executes the steps of one call, and sums the time spent in the tool's own code."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @property
    def milliseconds(self) -> float:
        return round(self._seconds * 1000, 3)

    def run(self, step: Callable[..., Any], arguments: dict[str, Any]) -> Outcome:
        """Execute one step of the tool. Nothing that it raises ends the worker, SystemExit included."""
        pid = os.getpid()
        start = time.perf_counter()
        try:
            value = step(**arguments)
            if is_awaitable(value):
                value = wait_for(value, run_context.current.get())
            outcome = value if isinstance(value, Outcome) else Outcome(value)
        except BaseException as error:  # noqa: BLE001 - plugin code
            outcome = Outcome(error=error)
        exit_if_forked(pid)
        self._seconds += time.perf_counter() - start
        return outcome


class GeneratorSteps:
    """A generator tool, event by event."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._is_async = hasattr(generator, "__anext__")

    def next(self) -> Any:
        """Raises StopIteration or StopAsyncIteration at its end, else what it raises."""
        # Whatever it yields is an item, also what could be awaited.
        if self._is_async:
            return wait_for(self._generator.__anext__(), run_context.current.get())
        return Outcome(next(self._generator))

    def close(self) -> Outcome:
        """End it early, by GeneratorExit."""
        return ToolExecution().run(self._close, {})

    def _close(self) -> Any:
        return wait_for(self._generator.aclose()) if self._is_async else self._generator.close()


def is_generator(value: Any) -> bool:
    """Whether a tool that returned this streams: generators of both kinds, whatever function made them."""
    # By their methods, as generators made by Cython and by wrapper classes have them.
    kind = type(value)
    return (hasattr(kind, "__next__") and hasattr(kind, "send") and hasattr(kind, "close")) or (
        hasattr(kind, "__anext__") and hasattr(kind, "aclose")
    )


def refusal_of(error: BaseException, *, has_gpu: bool = False) -> Refusal:
    """The answer to a caller whose tool raised `error`. `has_gpu`: the container has one."""
    name = type(error).__name__
    if isinstance(error, InvalidInput):
        return Refusal("invalid_input", message_of(error), name)
    code = GPU_OUT_OF_MEMORY if ran_out_of_gpu_memory(error, has_gpu=has_gpu) else None
    return Refusal("exception", message_of(error), name, plugin_traceback(error), code)
