"""Metrics: all metrics of one orchestrator. Those of plugins, containers and GPUs are read when they are scraped."""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, Protocol, TypeVar

from plugin_runtime import __version__
from prometheus_client import CollectorRegistry, Gauge, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from orchestrator.access.principal import ANYONE, Principal
from orchestrator.containers.engine import ContainerEngine
from orchestrator.health.health_model import uptime_seconds
from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import InstanceRecord, PluginRecord, PluginRegistry
from orchestrator.telemetry.observed_engine import ObservedEngine
from orchestrator.telemetry.run_metrics import PREFIX, RunMetrics

_Family = TypeVar("_Family", GaugeMetricFamily, CounterMetricFamily)
_Subject = TypeVar("_Subject", PluginRecord, InstanceRecord)
_Value = Callable[[_Subject], float | int | None]


def _in_container(field: str) -> Callable[[PluginRecord | InstanceRecord], float | int | None]:
    """A figure of the container as last reported; none once the instance has ended."""
    return lambda record: None if record.ended else getattr(record.container, field, None)


def _in_all(figure: _Value[InstanceRecord]) -> _Value[PluginRecord]:
    """The sum over the instances that serve or drain; none where no figure is known."""

    def total(record: PluginRecord) -> float | int | None:
        figures = [figure(each) for each in record.instances if not each.ended and each.role != "candidate"]
        known = [each for each in figures if each is not None]
        return sum(known) if known else None

    return total


def _memory_limit(record: PluginRecord | InstanceRecord) -> int | None:
    return None if record.limits is None else record.limits.memory


_GAUGES: Final[tuple[tuple[str, str, _Value[PluginRecord]], ...]] = (
    (
        "plugin_generation",
        "Generation of the plugin's newest instance: 1 for the first, counted up with each new one.",
        lambda r: r.generation,
    ),
    ("plugin_replicas_wanted", "Instances of the plugin that are to serve at a time.", lambda r: r.wanted),
    ("plugin_replicas_ready", "Instances of the plugin that take runs.", lambda r: r.ready),
    (
        "plugin_degraded",
        "1 if fewer instances of the plugin serve or start than are wanted, though it lives, else 0.",
        lambda r: r.degraded,
    ),
    ("plugin_in_flight", "Runs that are executing now.", lambda r: r.in_flight),
    ("plugin_queued", "Runs that are waiting in the plugin's queue now.", lambda r: r.queued),
    ("plugin_stale", "1 if what is known of the plugin may be out of date, else 0.", lambda r: r.stale),
    (
        "plugin_uptime_seconds",
        "Time since the instance that has been ready longest became so; absent before that and after the end.",
        lambda r: None if r.ended else uptime_seconds(r, time.monotonic()),
    ),
    (
        "plugin_memory_usage_bytes",
        "Memory that the plugin's containers are using.",
        _in_all(_in_container("memory_usage_bytes")),
    ),
    (
        "plugin_memory_peak_bytes",
        "Peak of the memory that the container has used; of several containers, the sum of their peaks.",
        _in_all(_in_container("memory_peak_bytes")),
    ),
    (
        "plugin_memory_limit_bytes",
        "Memory limit of the container; of several containers, the sum of their limits.",
        lambda r: _memory_limit(r) if r.ended else _in_all(_memory_limit)(r) or _memory_limit(r),
    ),
)
# Sums over instances would fall when one of them ends, which no counter may: `plugin_instance_…` has each.
_COUNTERS: Final[tuple[tuple[str, str, _Value[PluginRecord]], ...]] = (
    ("plugin_restarts", "Instances that were started after the first.", lambda r: max(0, r.highest_generation - 1)),
    (
        "plugin_cpu_seconds",
        "CPU time that the container has used; of several containers, that of the one which was ready first.",
        _in_container("cpu_seconds"),
    ),
    (
        "plugin_oom_kills",
        "Processes in that container that the kernel killed for lack of memory.",
        lambda r: r.container.oom_kills if r.container else None,
    ),
)
_INSTANCE_GAUGES: Final[tuple[tuple[str, str, _Value[InstanceRecord]], ...]] = (
    ("plugin_instance_in_flight", "Runs that the instance is executing now.", lambda i: i.in_flight),
    (
        "plugin_instance_uptime_seconds",
        "Time since the instance became ready; absent before that.",
        lambda i: uptime_seconds(i, time.monotonic()),
    ),
    (
        "plugin_instance_memory_usage_bytes",
        "Memory that the instance's container is using.",
        _in_container("memory_usage_bytes"),
    ),
    (
        "plugin_instance_memory_peak_bytes",
        "Peak of the memory that the instance's container has used.",
        _in_container("memory_peak_bytes"),
    ),
    ("plugin_instance_memory_limit_bytes", "Memory limit of the instance's container.", _memory_limit),
)
_INSTANCE_COUNTERS: Final[tuple[tuple[str, str, _Value[InstanceRecord]], ...]] = (
    (
        "plugin_instance_cpu_seconds",
        "CPU time that the instance's container has used.",
        _in_container("cpu_seconds"),
    ),
    (
        "plugin_instance_oom_kills",
        "Processes in the instance's container that the kernel killed for lack of memory.",
        _in_container("oom_kills"),
    ),
)
_GPUS: Final[tuple[tuple[str, str, str], ...]] = (
    ("gpu_memory_used_bytes", "Memory in use on the device, by all processes.", "memory_used_bytes"),
    ("gpu_memory_total_bytes", "Total memory of the device.", "memory_total_bytes"),
    ("gpu_utilization_percent", "Utilization of the device over about the last second.", "utilization_percent"),
    ("gpu_temperature_celsius", "Temperature of the device.", "temperature_celsius"),
    ("gpu_healthy", "1 if the device is healthy, else 0.", "healthy"),
)


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
        self._registry.register(_PluginMetrics(plugins.list, gpus))

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

    def text(self, accept: str, principal: Principal = ANYONE) -> tuple[bytes, str]:
        """The metrics that `principal` sees, in the format that an `Accept` header requests, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # an invalid version
            encode, content_type = choose_encoder("")
        found: Collector = _WithoutCreated(self._registry)
        if not (principal.sees_every_plugin and principal.sees_every_run):
            found = _Seen(found, principal)
        return encode(found), content_type


class _PluginMetrics(Collector):
    """`plugins` and `gpus` return the current state without waiting; `gpus` as GET /v1/gpus answers."""

    def __init__(self, plugins: Callable[[], Iterable[PluginRecord]], gpus: Callable[[], Mapping[str, Any]]) -> None:
        self._plugins = plugins
        self._gpus = gpus

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering reads nothing

    def collect(self) -> Iterator[Metric]:
        records = list(self._plugins())
        yield _states(records)
        for name, help_text, value in _GAUGES:
            yield _filled(GaugeMetricFamily(PREFIX + name, help_text, labels=("plugin",)), records, value)
        for name, help_text, value in _COUNTERS:
            yield _filled(CounterMetricFamily(PREFIX + name, help_text, labels=("plugin",)), records, value)
        yield from _instance_families(records)
        yield from _batch_families(records)
        yield from _gpu_families(self._gpus().get("devices", ()))


def _states(records: Iterable[PluginRecord]) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + "plugin_state", "1 for the plugin's current state, 0 for the others.", labels=("plugin", "state")
    )
    for record in records:
        for state in PluginLifecycleState:
            family.add_metric((record.name, state.value), float(record.state is state))
    return family


def _filled(family: _Family, records: Iterable[PluginRecord], value: _Value[PluginRecord]) -> _Family:
    for record in records:
        figure = value(record)
        if figure is not None:
            family.add_metric((record.name,), float(figure))
    return family


def _instance_families(records: Iterable[PluginRecord]) -> Iterator[Metric]:
    """Of the instances that live: a generation is a label only as long, so there are no more than instances."""
    alive = [(record.name, each) for record in records for each in record.instances if not each.ended]
    info = GaugeMetricFamily(
        PREFIX + "plugin_instance_info",
        "Always 1: state, role (serving, draining, candidate) and version of each instance that lives.",
        labels=("plugin", "generation", "state", "role", "version"),
    )
    for plugin, each in alive:
        info.add_metric((plugin, str(each.generation), each.state.value, each.role, each.version), 1.0)
    yield info
    labels = ("plugin", "generation")
    for name, help_text, value in _INSTANCE_GAUGES:
        yield _filled_by_instance(GaugeMetricFamily(PREFIX + name, help_text, labels=labels), alive, value)
    for name, help_text, value in _INSTANCE_COUNTERS:
        yield _filled_by_instance(CounterMetricFamily(PREFIX + name, help_text, labels=labels), alive, value)


def _filled_by_instance(
    family: _Family, alive: Iterable[tuple[str, InstanceRecord]], value: _Value[InstanceRecord]
) -> _Family:
    for plugin, instance in alive:
        figure = value(instance)
        if figure is not None:
            family.add_metric((plugin, str(instance.generation)), float(figure))
    return family


def _batch_families(records: Iterable[PluginRecord]) -> Iterator[Metric]:
    sizes = HistogramMetricFamily(
        PREFIX + "plugin_batch_size", "Items that a batched tool was called with.", labels=("plugin", "tool")
    )
    waits = HistogramMetricFamily(
        PREFIX + "plugin_batch_wait_seconds",
        "Time that an item waited in the container for its batch to start.",
        labels=("plugin", "tool"),
    )
    for record in records:
        batched = {tool["name"] for tool in record.tools if tool.get("batch")}
        alive = (each.container for each in record.instances if not each.ended and each.container is not None)
        by_tool: dict[str, list[Mapping[str, Any]]] = {}
        for found in (found for container in alive for found in container.batches):
            if found["tool"] in batched:  # a plugin must not be able to create time series
                by_tool.setdefault(found["tool"], []).append(found)
        for tool, each in by_tool.items():
            size, wait = _together(found["sizes"] for found in each), _together(found["waits"] for found in each)
            sizes.add_metric((record.name, tool), _buckets(size), sum_value=sum(wait["counts"]))
            waits.add_metric((record.name, tool), _buckets(wait), sum_value=sum(found["sum_seconds"] for found in each))
    yield sizes
    yield waits


def _together(histograms: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The histograms of a plugin's instances, which have the same bounds, added up."""
    first, *others = histograms
    counts = list(first["counts"])
    for other in (other for other in others if other["bounds"] == first["bounds"]):
        counts = [one + more for one, more in zip(counts, other["counts"], strict=True)]
    return {"bounds": first["bounds"], "counts": counts}


def _buckets(histogram: Mapping[str, Any]) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, histogram["bounds"]), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram["counts"])), strict=True))


def _gpu_families(devices: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, help_text, field in _GPUS:
        family = GaugeMetricFamily(PREFIX + name, help_text, labels=("gpu", "index"))
        for device in devices:
            if device.get(field) is not None:
                family.add_metric((device["uuid"] or "", str(device.get("index", ""))), float(device[field]))
        yield family
    held = GaugeMetricFamily(
        PREFIX + "plugin_gpu_memory_used_bytes",
        "Memory in use on a device that the plugin holds, including that of other plugins which share the device.",
        labels=("plugin", "gpu"),
    )
    for device in devices:
        for plugin in {holder["plugin"] for holder in device.get("holders", ())}:
            if device.get("memory_used_bytes") is not None:
                held.add_metric((plugin, device["uuid"]), float(device["memory_used_bytes"]))
    yield held


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


class _Seen(Collector):
    """The series that a caller sees: those of its plugins, and of its own runs where it sees no others."""

    def __init__(self, metrics: Collector, principal: Principal) -> None:
        self._metrics = metrics
        self._principal = principal

    def collect(self) -> Iterable[Metric]:
        for metric in self._metrics.collect():
            metric.samples = [sample for sample in metric.samples if self._sees(sample.labels)]
            if metric.samples:
                yield metric

    def _sees(self, labels: Mapping[str, str]) -> bool:
        who = self._principal
        # What has no plugin is of the orchestrator and its host, and sums up what others do.
        plugin = labels.get("plugin")
        if not (who.sees_every_plugin if plugin is None else who.sees(plugin)):
            return False
        return who.sees_every_run or labels.get("caller", who.name) == who.name
