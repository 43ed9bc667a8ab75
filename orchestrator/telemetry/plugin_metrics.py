"""Metrics of plugins, their containers and GPUs, read when they are scraped."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from orchestrator.health.health_model import uptime_seconds
from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import PluginRecord
from orchestrator.telemetry.run_metrics import PREFIX

_Family = TypeVar("_Family", GaugeMetricFamily, CounterMetricFamily)
_Value = Callable[[PluginRecord], float | int | None]


def _in_container(field: str) -> _Value:
    """A figure of the container as last reported; none once the instance has ended."""
    return lambda record: None if record.ended else getattr(record.container, field, None)


_GAUGES: Final[tuple[tuple[str, str, _Value], ...]] = (
    (
        "plugin_generation",
        "Generation of the plugin's instance: 1 for the first, counted up with each new one.",
        lambda r: r.generation,
    ),
    ("plugin_in_flight", "Runs that are executing now.", lambda r: r.in_flight),
    ("plugin_queued", "Runs that are waiting in the plugin's queue now.", lambda r: r.queued),
    ("plugin_stale", "1 if what is known of the plugin may be out of date, else 0.", lambda r: r.stale),
    (
        "plugin_uptime_seconds",
        "Time since the instance became ready; absent before that and after it has ended.",
        lambda r: None if r.ended else uptime_seconds(r, time.monotonic()),
    ),
    ("plugin_memory_usage_bytes", "Memory that the container is using.", _in_container("memory_usage_bytes")),
    ("plugin_memory_peak_bytes", "Peak of the memory that the container has used.", _in_container("memory_peak_bytes")),
    ("plugin_memory_limit_bytes", "Memory limit of the container.", lambda r: r.limits.memory if r.limits else None),
)
_COUNTERS: Final[tuple[tuple[str, str, _Value], ...]] = (
    ("plugin_restarts", "Instances that were started after the first.", lambda r: max(0, r.generation - 1)),
    ("plugin_cpu_seconds", "CPU time that the instance's container has used.", _in_container("cpu_seconds")),
    (
        "plugin_oom_kills",
        "Processes in the instance's container that the kernel killed for lack of memory.",
        lambda r: r.container.oom_kills if r.container else None,
    ),
)
_GPUS: Final[tuple[tuple[str, str, str], ...]] = (
    ("gpu_memory_used_bytes", "Memory in use on the device, by all processes.", "memory_used_bytes"),
    ("gpu_memory_total_bytes", "Total memory of the device.", "memory_total_bytes"),
    ("gpu_utilization_percent", "Utilization of the device over about the last second.", "utilization_percent"),
    ("gpu_temperature_celsius", "Temperature of the device.", "temperature_celsius"),
    ("gpu_healthy", "1 if the device is healthy, else 0.", "healthy"),
)


class PluginMetrics(Collector):
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
        yield from _gpu_families(self._gpus().get("devices", ()))


def _states(records: Iterable[PluginRecord]) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + "plugin_state", "1 for the plugin's current state, 0 for the others.", labels=("plugin", "state")
    )
    for record in records:
        for state in PluginLifecycleState:
            family.add_metric((record.name, state.value), float(record.state is state))
    return family


def _filled(family: _Family, records: Iterable[PluginRecord], value: _Value) -> _Family:
    for record in records:
        figure = value(record)
        if figure is not None:
            family.add_metric((record.name,), float(figure))
    return family


def _gpu_families(devices: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, help_text, field in _GPUS:
        family = GaugeMetricFamily(PREFIX + name, help_text, labels=("gpu", "index"))
        for device in devices:
            if device.get(field) is not None:
                family.add_metric((device["uuid"], str(device.get("index", ""))), float(device[field]))
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
