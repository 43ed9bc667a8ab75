"""Metrics of runs: counted and timed when they end, by plugin, tool and outcome."""

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
"""Label for names that no plugin or tool has: callers must not be able to create time series."""
CANCELLED: Final = "cancelled"
"""Outcome of a run that the orchestrator itself ended, without a result."""
_MAX_TOOLS: Final = 100  # tools of one plugin that have labels of their own
# Seconds. From a call that does nothing to the default time limit, and one more for plugins with a longer one.
_DURATIONS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 300)
_WAITS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class RunMetrics:
    """The metrics of runs; `watch` is a `RunObserver`."""

    def __init__(
        self, metrics: CollectorRegistry, plugins: PluginRegistry, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._plugins = plugins
        self._clock = clock
        self._tools: dict[str, set[str]] = {}
        """The tools of each plugin that are known to exist."""
        # Children by label, since `labels()` takes longer than what is done with them.
        self._counters: dict[tuple[str, str, str], Counter] = {}
        self._histograms: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}
        self._runs = Counter(
            f"{PREFIX}runs", "Runs that ended, by outcome.", ("plugin", "tool", "outcome"), registry=metrics
        )
        self._callers: dict[tuple[str, str, str], Counter] = {}
        self._caller_runs = Counter(
            f"{PREFIX}plugin_caller_runs",
            "Runs that ended, by the name of the key that they were called with, and by outcome.",
            ("plugin", "caller", "outcome"),
            registry=metrics,
        )
        self._durations = Histogram(
            f"{PREFIX}run_duration_seconds",
            "Execution time of runs that started, from the call to its answer.",
            ("plugin", "tool"),
            buckets=_DURATIONS,
            registry=metrics,
        )
        self._waits = Histogram(
            f"{PREFIX}run_queue_wait_seconds",
            "Time from a run's acceptance to its start: waiting in the queue, and for the plugin to be ready.",
            ("plugin",),
            buckets=_WAITS,
            registry=metrics,
        )

    def watch(self, plugin: str, call: ToolCall) -> RunWatch:
        return _TimedRun(plugin, call, self._clock, self._count)

    def _count(self, run: "_TimedRun") -> None:
        outcome = run.result.outcome.value if run.result else CANCELLED
        key = (run.plugin, run.tool, outcome)
        counter = self._counters.get(key) or self._counter(*key)
        counter.inc()
        if run.caller is not None:
            self._of_caller(run.plugin, run.caller, outcome).inc()
        if run.started_at is not None:
            waits, durations = self._histograms.get((run.plugin, run.tool)) or self._histograms_of(run.plugin, run.tool)
            waits.observe(run.started_at - run.accepted_at)
            durations.observe(run.duration)

    def _counter(self, plugin: str, tool: str, outcome: str) -> Counter:
        labels = self.labels(plugin, tool)
        counter = self._runs.labels(*labels, outcome)
        if labels == (plugin, tool):  # other names are unbounded
            self._counters[plugin, tool, outcome] = counter
        return counter

    def _of_caller(self, plugin: str, caller: str, outcome: str) -> Counter:
        """By the names of keys, of which there are as many as the operator has made."""
        found = self._callers.get((plugin, caller, outcome))
        if found is None:
            known = self._plugins.get(plugin) is not None
            found = self._caller_runs.labels(plugin if known else UNKNOWN, caller, outcome)
            if known:
                self._callers[plugin, caller, outcome] = found
        return found

    def _histograms_of(self, plugin: str, tool: str) -> tuple[Histogram, Histogram]:
        labels = self.labels(plugin, tool)
        times = self._waits.labels(labels[0]), self._durations.labels(*labels)
        if labels == (plugin, tool):
            self._histograms[plugin, tool] = times
        return times

    def labels(self, plugin: str, tool: str) -> tuple[str, str]:
        """The labels of a run; `UNKNOWN` instead of a plugin or tool that does not exist."""
        if tool in self._tools.get(plugin, ()):
            return plugin, tool
        record = self._plugins.get(plugin)
        if record is None:
            return UNKNOWN, UNKNOWN
        tools = self._tools.setdefault(plugin, set())
        if len(tools) < _MAX_TOOLS and any(known.get("name") == tool for known in record.tools):
            tools.add(tool)
            return plugin, tool
        return plugin, UNKNOWN


class _TimedRun(RunWatch):
    def __init__(
        self, plugin: str, call: ToolCall, clock: Callable[[], float], on_end: "Callable[[_TimedRun], None]"
    ) -> None:
        self.plugin = plugin
        self.tool = call.tool
        self.caller = call.caller
        self._on_end = on_end
        self._clock = clock
        self.accepted_at = clock()
        self.started_at: float | None = None
        self.result: RunResult | None = None

    @property
    def duration(self) -> float:
        """Seconds of execution."""
        elapsed = self._clock() - (self.started_at or self.accepted_at)
        # The result's own figure comes from the container, so it is bounded by what it can have been.
        return min(max(0.0, self.result.execution_time_ms / 1000), elapsed) if self.result else elapsed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_end(self)

    def started(self, call: ToolCall) -> ToolCall:
        self.started_at = self._clock()
        return call

    def ended(self, result: RunResult) -> None:
        self.result = result
