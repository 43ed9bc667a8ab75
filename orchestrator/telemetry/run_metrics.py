"""Metrics of runs: counted and timed when they end, by plugin, tool and outcome."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

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


class _Distribution:
    """How many values there were up to each of `bounds`, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def any(self) -> bool:
        return any(self._counts)

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """As Prometheus has them: cumulative, by upper bound; and the sum."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class _Totals:
    """Of the runs of one tool. `waits`: of all tools of its plugin."""

    def __init__(self, labels: tuple[str, str], waits: _Distribution) -> None:
        self.labels = labels
        self.outcomes: dict[str, int] = {}
        self.waits = waits
        self.durations = _Distribution(_DURATIONS)


class RunMetrics(Collector):
    """The metrics of runs; `watch` is a `RunObserver`."""

    # Counted here, and made Prometheus' own when they are asked for: each of its series takes a lock for each run.

    def __init__(
        self, metrics: CollectorRegistry, plugins: PluginRegistry, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._plugins = plugins
        self._clock = clock
        self._tools: dict[str, set[str]] = {}
        """The tools of each plugin that are known to exist."""
        self._totals: dict[tuple[str, str], _Totals] = {}
        """By labels."""
        self._waits: dict[str, _Distribution] = {}
        self._callers: dict[tuple[str, str, str], int] = {}
        """Runs by plugin, caller and outcome."""
        metrics.register(self)

    def watch(self, plugin: str, call: ToolCall) -> RunWatch:
        return _TimedRun(plugin, call, self._clock, self._count)

    def collect(self) -> Iterable[Metric]:
        runs = CounterMetricFamily(
            f"{PREFIX}runs", "Runs that ended, by outcome.", labels=("plugin", "tool", "outcome")
        )
        caller_runs = CounterMetricFamily(
            f"{PREFIX}plugin_caller_runs",
            "Runs that ended, by the name of the key that they were called with, and by outcome.",
            labels=("plugin", "caller", "outcome"),
        )
        durations = HistogramMetricFamily(
            f"{PREFIX}run_duration_seconds",
            "Execution time of runs that started, from the call to its answer.",
            labels=("plugin", "tool"),
        )
        waits = HistogramMetricFamily(
            f"{PREFIX}run_queue_wait_seconds",
            "Time from a run's acceptance to its start: waiting in the queue, and for the plugin to be ready.",
            labels=("plugin",),
        )
        for totals in tuple(self._totals.values()):
            for outcome, count in tuple(totals.outcomes.items()):
                runs.add_metric((*totals.labels, outcome), count)
            if totals.durations.any:
                durations.add_metric(totals.labels, *totals.durations.buckets())
        for plugin, distribution in tuple(self._waits.items()):
            if distribution.any:
                waits.add_metric((plugin,), *distribution.buckets())
        for labels, count in tuple(self._callers.items()):
            caller_runs.add_metric(labels, count)
        return runs, caller_runs, durations, waits

    def _count(self, run: "_TimedRun") -> None:
        outcome: str = run.result.outcome if run.result else CANCELLED
        totals = self._totals.get((run.plugin, run.tool)) or self._totals_of(run.plugin, run.tool)
        totals.outcomes[outcome] = totals.outcomes.get(outcome, 0) + 1
        if run.caller is not None:
            key = (totals.labels[0], run.caller, outcome)
            self._callers[key] = self._callers.get(key, 0) + 1
        if run.started_at is not None:
            totals.waits.observe(run.started_at - run.accepted_at)
            totals.durations.observe(run.duration)

    def _totals_of(self, plugin: str, tool: str) -> _Totals:
        labels = self.labels(plugin, tool)
        totals = self._totals.get(labels)
        if totals is None:
            waits = self._waits.setdefault(labels[0], _Distribution(_WAITS))
            totals = self._totals[labels] = _Totals(labels, waits)
        return totals

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
