"""Metrics: all that one orchestrator tells of itself, in a registry of its own, so that many live in one process."""

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from plugin_runtime import __version__
from prometheus_client import CollectorRegistry, Gauge, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from orchestrator.containers.engine import ContainerEngine
from orchestrator.registry import PluginRegistry
from orchestrator.telemetry.observed_engine import ObservedEngine
from orchestrator.telemetry.plugin_metrics import PluginMetrics
from orchestrator.telemetry.run_metrics import PREFIX, RunMetrics


class _History(Protocol):
    @property
    def problem(self) -> str | None: ...

    @property
    def lost(self) -> int: ...


class Metrics:
    """Made first, of nothing; what is to be measured is handed in as it comes to be."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        build = Gauge(f"{PREFIX}build_info", "Always 1.", ("version", "python"), registry=self._registry)
        build.labels(__version__, platform.python_version()).set(1)

    def observe_engine(self, engine: ContainerEngine) -> ContainerEngine:
        """The engine to be used instead of `engine`."""
        return ObservedEngine(engine, self._registry)

    def observe_runs(self, plugins: PluginRegistry) -> RunMetrics:
        return RunMetrics(self._registry, plugins)

    def observe_plugins(self, plugins: PluginRegistry, gpus: Callable[[], Mapping[str, Any]]) -> None:
        self._registry.register(PluginMetrics(plugins.list, gpus))

    def observe_readers(self, count: Callable[[], float]) -> None:
        gauge = Gauge(f"{PREFIX}event_readers", "Who follows the events now.", registry=self._registry)
        gauge.set_function(count)

    def observe_history(self, history: _History) -> None:
        problem = Gauge(
            f"{PREFIX}history_problem", "1 while the history is not being written or read.", registry=self._registry
        )
        problem.set_function(lambda: history.problem is not None)
        self._registry.register(_Lost(history))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the form that an `Accept` header asks for, and that form's content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        return encode(_WithoutCreated(self._registry)), content_type


class _Lost(Collector):
    def __init__(self, history: _History) -> None:
        self._history = history

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            f"{PREFIX}history_lost", "Events and run steps that the history could not keep.", value=self._history.lost
        )


class _WithoutCreated(Collector):
    """Leaves out when each series began: it doubles their number, and few look at it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
