"""Runs as metrics: counted and timed when they end, by plugin, tool and outcome."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from orchestrator.registry import PluginRegistry
from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.tools.run_observer import RunWatch

PREFIX: Final = "plugin_orchestrator_"
UNKNOWN: Final = "unknown"
"""The label of what a caller named and no plugin has: callers must not make time series."""
CANCELLED: Final = "cancelled"
"""The outcome of a run that was given up by the orchestrator itself."""
_TOOLS_MOST: Final = 100
"""Tools of one plugin that have labels of their own."""
_DURATIONS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 300)
"""Seconds. From a call that does nothing up to the default time limit, and one more for plugins that have longer."""
_WAITS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class RunMetrics:
    """The metrics of runs; `watch` is a `RunObserver`."""

    def __init__(
        self, metrics: CollectorRegistry, plugins: PluginRegistry, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._plugins = plugins
        self._clock = clock
        self._tools: dict[str, set[str]] = {}
        """The tools of each plugin that have been seen to exist."""
        self._runs = Counter(
            f"{PREFIX}runs", "Runs that ended, by what became of them.", ("plugin", "tool", "outcome"), registry=metrics
        )
        self._durations = Histogram(
            f"{PREFIX}run_duration_seconds",
            "Execution of runs that began, from the call to its answer.",
            ("plugin", "tool"),
            buckets=_DURATIONS,
            registry=metrics,
        )
        self._waits = Histogram(
            f"{PREFIX}run_queue_wait_seconds",
            "From a run's acceptance to its begin: until its turn came and the plugin was up.",
            ("plugin",),
            buckets=_WAITS,
            registry=metrics,
        )

    @contextmanager
    def watch(self, plugin: str, call: ToolCall) -> Iterator[RunWatch]:
        run = _TimedRun(self._clock)
        try:
            yield run
        finally:
            self._count(plugin, call.tool, run)

    def _count(self, plugin: str, tool: str, run: "_TimedRun") -> None:
        plugin, tool = self.labels(plugin, tool)
        self._runs.labels(plugin, tool, run.result.outcome.value if run.result else CANCELLED).inc()
        if run.begun_at is not None:
            self._waits.labels(plugin).observe(run.begun_at - run.accepted_at)
            self._durations.labels(plugin, tool).observe(run.duration)

    def labels(self, plugin: str, tool: str) -> tuple[str, str]:
        """Both, as far as they exist."""
        if tool in self._tools.get(plugin, ()):
            return plugin, tool
        record = self._plugins.get(plugin)
        if record is None:
            return UNKNOWN, UNKNOWN
        tools = self._tools.setdefault(plugin, set())
        if len(tools) < _TOOLS_MOST and any(known.get("name") == tool for known in record.tools):
            tools.add(tool)
            return plugin, tool
        return plugin, UNKNOWN


class _TimedRun(RunWatch):
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.accepted_at = clock()
        self.begun_at: float | None = None
        self.result: RunResult | None = None

    @property
    def duration(self) -> float:
        """Seconds of execution: what the result says of it, within what it can have been."""
        passed = self._clock() - (self.begun_at or self.accepted_at)
        return min(max(0.0, self.result.execution_time_ms / 1000), passed) if self.result else passed

    def begun(self, call: ToolCall) -> ToolCall:
        self.begun_at = self._clock()
        return call

    def ended(self, result: RunResult) -> None:
        self.result = result
