"""Runs as metrics: counted and timed when they end, by plugin, tool and outcome."""

import time
from collections.abc import Callable
from types import TracebackType
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
        self._counted: dict[tuple[str, str, str], Counter] = {}
        self._timed: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}
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

    def watch(self, plugin: str, call: ToolCall) -> RunWatch:
        return _TimedRun(plugin, call.tool, self._clock, self._count)

    def _count(self, run: "_TimedRun") -> None:
        outcome = run.result.outcome.value if run.result else CANCELLED
        counted = self._counted.get((run.plugin, run.tool, outcome)) or self._count_of(run.plugin, run.tool, outcome)
        counted.inc()
        if run.begun_at is not None:
            waits, durations = self._timed.get((run.plugin, run.tool)) or self._times_of(run.plugin, run.tool)
            waits.observe(run.begun_at - run.accepted_at)
            durations.observe(run.duration)

    def _count_of(self, plugin: str, tool: str, outcome: str) -> Counter:
        labels = self.labels(plugin, tool)
        counter = self._runs.labels(*labels, outcome)
        if labels == (plugin, tool):  # of others there is no end
            self._counted[plugin, tool, outcome] = counter
        return counter

    def _times_of(self, plugin: str, tool: str) -> tuple[Histogram, Histogram]:
        labels = self.labels(plugin, tool)
        times = self._waits.labels(labels[0]), self._durations.labels(*labels)
        if labels == (plugin, tool):
            self._timed[plugin, tool] = times
        return times

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
    def __init__(self, plugin: str, tool: str, clock: Callable[[], float], over: "Callable[[_TimedRun], None]") -> None:
        self.plugin = plugin
        self.tool = tool
        self._over = over
        self._clock = clock
        self.accepted_at = clock()
        self.begun_at: float | None = None
        self.result: RunResult | None = None

    @property
    def duration(self) -> float:
        """Seconds of execution: what the result says of it, within what it can have been."""
        passed = self._clock() - (self.begun_at or self.accepted_at)
        return min(max(0.0, self.result.execution_time_ms / 1000), passed) if self.result else passed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over(self)

    def started(self, call: ToolCall) -> ToolCall:
        self.begun_at = self._clock()
        return call

    def ended(self, result: RunResult) -> None:
        self.result = result
