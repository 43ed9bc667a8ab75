"""Metrics of a plugin with several instances: the plugin's own are of all, and each that lives has its own."""

from datetime import UTC, datetime

from support.metrics import Scrape

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import ContainerFacts, EffectiveLimits, PluginRecord, PluginRegistry
from orchestrator.telemetry.metrics import Metrics

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMITS = EffectiveLimits(60.0, 1000, None, 128, 1 << 26, 1 << 32, 120.0, 1, 16)


def registry_of(count: int) -> PluginRegistry:
    """Ready instances of the plugin `reader`: the n-th uses n bytes of memory and n seconds of CPU time."""
    registry = PluginRegistry()
    registry.register(PluginRecord("reader", "1", "", PluginLifecycleState.LOADED, START))
    registry.set_wanted("reader", count)
    for _ in range(count):
        add(registry, "serving")
    return registry


def add(registry: PluginRegistry, role: str) -> int:
    known = registry.get("reader")
    keep = [each.generation for each in known.instances] if known else []
    number = registry.renew("reader", keep=keep, role=role, limits=LIMITS)  # type: ignore[arg-type]
    container = ContainerFacts("c", f"reader-{number}", None, number, 2 * number, float(number), 0)
    registry.update("reader", number, container=container)
    registry.mark_initialized("reader", number)
    return number


def scrape(registry: PluginRegistry) -> Scrape:
    metrics = Metrics()
    metrics.observe_plugins(registry, dict)
    return Scrape(metrics.text("")[0].decode())


def test_the_plugins_memory_is_that_of_all_that_serve_or_drain() -> None:
    """Usage and limit over the same containers; a candidate's are its own."""
    registry = registry_of(3)
    registry.set_role("reader", 1, "draining")
    add(registry, "candidate")
    found = scrape(registry)
    assert found.value("plugin_memory_usage_bytes", plugin="reader") == 1 + 2 + 3
    assert found.value("plugin_memory_peak_bytes", plugin="reader") == 2 + 4 + 6
    assert found.value("plugin_memory_limit_bytes", plugin="reader") == 3000
    assert found.value("plugin_instance_memory_usage_bytes", plugin="reader", generation="4") == 4
    registry.mark_ended("reader", 3, ReasonCode.CRASHED, "")
    assert scrape(registry).value("plugin_memory_limit_bytes", plugin="reader") == 2000


def test_replicas_are_wanted_and_ready() -> None:
    """And degraded says that they are fewer."""
    registry = registry_of(3)
    for number, degraded in ((0, 0), (1, 1), (2, 1), (3, 0)):
        if number:
            registry.begin_run("reader", number)
            registry.mark_ended("reader", number, ReasonCode.CRASHED, "")
        found = scrape(registry)
        assert found.value("plugin_replicas_wanted", plugin="reader") == 3
        assert found.value("plugin_replicas_ready", plugin="reader") == 3 - number
        assert found.value("plugin_degraded", plugin="reader") == degraded


def test_each_living_instance_has_metrics_of_its_own() -> None:
    """Its state, role and version as labels of one series; its figures by generation."""
    registry = registry_of(2)
    registry.begin_run("reader", 2)
    found = scrape(registry)
    info = {"plugin": "reader", "role": "serving", "version": "1"}
    assert found.value("plugin_instance_info", **info, generation="1", state="INITIALIZED") == 1
    assert found.value("plugin_instance_info", **info, generation="2", state="RUNNING") == 1
    for number in (1, 2):
        labels = {"plugin": "reader", "generation": str(number)}
        assert found.value("plugin_instance_in_flight", **labels) == number - 1
        assert found.value("plugin_instance_cpu_seconds_total", **labels) == number
        assert found.value("plugin_instance_oom_kills_total", **labels) == 0
        assert found.value("plugin_instance_memory_peak_bytes", **labels) == 2 * number
        assert found.value("plugin_instance_memory_limit_bytes", **labels) == 1000
        assert found.value("plugin_instance_uptime_seconds", **labels) is not None


def test_no_more_generations_than_living_instances_are_labels() -> None:
    """However often instances are replaced; and counters of the plugin never go back."""
    registry = registry_of(2)
    restarts = [0.0]
    for _ in range(20):
        add(registry, "serving")
        known = registry.get("reader")
        assert known is not None
        oldest = next(each.generation for each in known.instances if not each.ended)
        registry.mark_ended("reader", oldest, ReasonCode.CRASHED, "")
        found = scrape(registry)
        assert len(found.labels("plugin_instance_info", "generation")) == 2
        assert len(found.labels("plugin_instance_in_flight", "generation")) == 2
        restarts.append(found.value("plugin_restarts_total", plugin="reader") or 0)
    # Of the newest, which is forgotten before an older one.
    newest = known.instances[-1].generation
    registry.mark_ended("reader", newest, ReasonCode.CRASHED, "")
    assert registry.forget("reader", newest)
    restarts.append(scrape(registry).value("plugin_restarts_total", plugin="reader") or 0)
    assert restarts == sorted(restarts)


def test_one_instance_has_the_figures_that_it_had() -> None:
    """Also once it has ended: its limit stays, its memory is gone."""
    registry = registry_of(1)
    found = scrape(registry)
    assert found.value("plugin_memory_usage_bytes", plugin="reader") == 1
    assert found.value("plugin_cpu_seconds_total", plugin="reader") == 1
    registry.mark_ended("reader", 1, ReasonCode.CRASHED, "")
    found = scrape(registry)
    assert found.value("plugin_memory_usage_bytes", plugin="reader") is None
    assert found.value("plugin_memory_limit_bytes", plugin="reader") == 1000
    assert found.value("plugin_oom_kills_total", plugin="reader") == 0
    assert found.labels("plugin_instance_info", "generation") == set()
