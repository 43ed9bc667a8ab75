"""Metrics: all metrics of one orchestrator."""

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
    """Created before everything that it measures, which is passed in as it is created."""

    def __init__(self) -> None:
        # Not the global one: several orchestrators can live in one process.
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        build = Gauge(
            f"{PREFIX}build_info",
            "Version of the orchestrator and of Python; always 1.",
            ("version", "python"),
            registry=self._registry,
        )
        build.labels(__version__, platform.python_version()).set(1)

    def observe_engine(self, engine: ContainerEngine) -> ContainerEngine:
        """Returns the engine to use instead of `engine`."""
        return ObservedEngine(engine, self._registry)

    def observe_runs(self, plugins: PluginRegistry) -> RunMetrics:
        return RunMetrics(self._registry, plugins)

    def observe_plugins(self, plugins: PluginRegistry, gpus: Callable[[], Mapping[str, Any]]) -> None:
        self._registry.register(PluginMetrics(plugins.list, gpus))

    def observe_readers(self, count: Callable[[], float]) -> None:
        gauge = Gauge(f"{PREFIX}event_readers", "Readers that follow the event stream now.", registry=self._registry)
        gauge.set_function(count)

    def observe_history(self, history: _History) -> None:
        problem = Gauge(
            f"{PREFIX}history_problem",
            "1 while the history cannot be written or read, else 0.",
            registry=self._registry,
        )
        problem.set_function(lambda: history.problem is not None)
        self._registry.register(_Lost(history))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that an `Accept` header requests, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # an invalid version
            encode, content_type = choose_encoder("")
        return encode(_WithoutCreated(self._registry)), content_type


class _Lost(Collector):
    def __init__(self, history: _History) -> None:
        self._history = history

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            f"{PREFIX}history_lost",
            "Events and run steps that could not be written to the history.",
            value=self._history.lost,
        )


class _WithoutCreated(Collector):
    """Omits the `_created` samples."""

    # They double the number of series, for little use.

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
