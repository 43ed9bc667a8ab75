"""GET /metrics: metrics of runs, plugins and the engine, in forms that Prometheus accepts."""

import asyncio
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from support.harness import Harness
from support.metrics import PREFIX, scraped
from support.promtool import needs_promtool, promtool

from orchestrator.errors import EngineUnreachableError
from orchestrator.lifecycle import PluginLifecycleState


def fail() -> None:
    raise ValueError("no")


@pytest.fixture
async def lived_in(harness: Harness) -> Harness:
    """Successful and failed runs, a plugin that failed, one with an unreadable manifest."""
    harness.add("reader", tools={"read": lambda: "text"}, failure_policy="tolerant")
    harness.add("broken", tools={"fail": fail})
    harness.write_raw("nonsense", "version: [")
    client = await harness.open()
    for name in ("reader", "broken"):
        await harness.until_state(name, "INITIALIZED")
    await harness.run("reader", "read")
    await harness.run("reader", "read")
    await harness.run("broken", "fail")
    await harness.until_removed("broken")
    await harness.run("broken", "fail")
    await harness.run("reader", "made-up-by-a-caller")
    await client.post("/v1/plugins/nobody/tools/read/run", json={})
    return harness


# Form


async def test_a_strict_parser_accepts_it(lived_in: Harness) -> None:
    """As Prometheus text and as OpenMetrics; every metric of ours has our prefix and a help text."""
    scrape = await scraped(lived_in.client)
    assert scrape.families
    for name, family in scrape.families.items():
        assert name.startswith((PREFIX, "process_", "python_gc_")), name
        assert family.documentation, name
    answer = await lived_in.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {family.name for family in openmetrics(answer.text)} == set(scrape.families)


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "application/openmetrics-text; version=newest"])
async def test_any_other_accept_header_gets_text(harness: Harness, accept: str) -> None:
    client = await harness.open()
    answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@needs_promtool
async def test_promtool_reports_nothing(lived_in: Harness) -> None:
    """Neither errors nor advice, except for process_ and python_, which are the client library's own."""
    text = (await scraped(lived_in.client)).text
    _, output = promtool("check", "metrics", stdin=text)
    assert [line for line in output.splitlines() if line.startswith(PREFIX)] == [], output
    assert "error" not in output, output


async def test_many_orchestrators_in_one_process_count_apart(harness: Harness, tmp_path: Any) -> None:
    """Each has a registry of its own."""
    harness.add("reader", tools={"read": lambda: "text"})
    (tmp_path / "second").mkdir()
    async with Harness(tmp_path / "second") as second:
        second.add("reader", tools={"read": lambda: "text"})
        first_client, second_client = await harness.open(), await second.open()
        await harness.settled("reader")
        await harness.run("reader", "read")
        labels = {"plugin": "reader", "tool": "read", "outcome": "ok"}
        assert (await scraped(first_client)).value("runs_total", **labels) == 1
        assert (await scraped(second_client)).value("runs_total", **labels) is None


# Runs


async def test_runs_are_counted_by_plugin_tool_and_outcome(lived_in: Harness) -> None:
    scrape = await scraped(lived_in.client)
    assert scrape.value("runs_total", plugin="reader", tool="read", outcome="ok") == 2
    assert scrape.value("runs_total", plugin="broken", tool="fail", outcome="plugin_failed") == 1
    assert scrape.value("runs_total", plugin="broken", tool="fail", outcome="unavailable") == 1


async def test_names_made_up_by_callers_create_no_series(lived_in: Harness) -> None:
    """A tool that no plugin has is `unknown`; a plugin that does not exist has no run."""
    scrape = await scraped(lived_in.client)
    assert scrape.value("runs_total", plugin="reader", tool="unknown", outcome="unknown_tool") == 1
    assert scrape.labels("runs_total", "tool") == {"read", "fail", "unknown"}
    assert scrape.labels("runs_total", "plugin") == {"reader", "broken"}


async def test_durations_and_waits_are_of_runs_that_started(harness: Harness) -> None:
    """The wait in the queue ends where the duration begins."""
    gate = asyncio.Event()

    async def held() -> None:
        await gate.wait()

    harness.add("reader", tools={"held": held, "read": lambda: "text"})
    client = await harness.open()
    await harness.settled("reader")
    runs = [asyncio.create_task(harness.run("reader", "held"))]
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    runs += [asyncio.create_task(harness.run("reader", "read")) for _ in range(2)]
    await harness.until("reader", lambda health: health["queued"] == 2)
    scrape = await scraped(client)
    assert scrape.value("plugin_in_flight", plugin="reader") == 1
    assert scrape.value("plugin_queued", plugin="reader") == 2
    await asyncio.sleep(0.26)
    gate.set()
    await asyncio.gather(*runs)
    scrape = await scraped(client)
    assert scrape.value("plugin_in_flight", plugin="reader") == 0
    assert scrape.value("plugin_queued", plugin="reader") == 0
    assert scrape.value("run_queue_wait_seconds_bucket", plugin="reader", le="0.25") == 1
    assert scrape.value("run_queue_wait_seconds_count", plugin="reader") == 3
    assert scrape.value("run_duration_seconds_bucket", plugin="reader", tool="held", le="0.25") == 0
    assert scrape.value("run_duration_seconds_count", plugin="reader", tool="held") == 1
    assert scrape.value("run_duration_seconds_count", plugin="reader", tool="read") == 2


async def test_a_run_that_never_started_has_no_duration(lived_in: Harness) -> None:
    """Its plugin had ended, or it has no such tool."""
    scrape = await scraped(lived_in.client)
    assert scrape.value("run_duration_seconds_count", plugin="broken", tool="fail") == 1
    assert scrape.value("run_duration_seconds_count", plugin="reader", tool="unknown") is None
    assert scrape.value("run_queue_wait_seconds_count", plugin="reader") == 2


# Plugins


async def test_every_plugin_is_in_one_state(lived_in: Harness) -> None:
    """Exactly one of the five is 1, also for a plugin whose manifest cannot be read."""
    scrape = await scraped(lived_in.client)
    states = {
        name: [s.value for s in PluginLifecycleState if scrape.value("plugin_state", plugin=name, state=s.value) == 1]
        for name in ("reader", "broken", "nonsense")
    }
    assert states == {"reader": ["RUNNING"], "broken": ["FAILED"], "nonsense": ["FAILED"]}
    assert scrape.value("plugin_state", plugin="reader", state="FAILED") == 0


async def test_a_container_has_metrics_while_it_lives(lived_in: Harness) -> None:
    """Memory and its limit, CPU time, uptime; none once it has ended, when they would stand still."""
    scrape = await scraped(lived_in.client)
    health = await lived_in.health("reader")
    assert scrape.value("plugin_memory_usage_bytes", plugin="reader") == health["container"]["memory_usage_bytes"]
    assert scrape.value("plugin_memory_peak_bytes", plugin="reader") == health["container"]["memory_peak_bytes"]
    assert scrape.value("plugin_memory_limit_bytes", plugin="reader") == 1024**3
    assert scrape.value("plugin_cpu_seconds_total", plugin="reader") == health["container"]["cpu_seconds"]
    assert scrape.value("plugin_oom_kills_total", plugin="reader") == 0
    uptime = scrape.value("plugin_uptime_seconds", plugin="reader")
    assert uptime is not None and 0 < uptime < 60
    for name in ("plugin_memory_usage_bytes", "plugin_cpu_seconds_total", "plugin_uptime_seconds"):
        assert scrape.value(name, plugin="broken") is None


async def test_batches_are_counted_by_plugin_and_tool(harness: Harness) -> None:
    """How large they were, and how long items waited for them; only of tools that are batched."""
    runtime = harness.add("reader", start=[])
    await harness.open()
    await harness.until("reader", lambda _: bool(runtime.instances))
    tool = {"name": "read", "description": "", "input_schema": {"type": "object"}, "streaming": False, "uploads": {}}
    tools = [{**tool, "batch": {"max_size": 4, "max_wait_ms": 5}}, {**tool, "name": "plain"}]
    counts = {
        "sizes": {"bounds": [1, 2, 4], "counts": [1, 0, 2, 0]},
        "waits": {"bounds": [0.001, 0.005], "counts": [2, 6, 1], "sum_seconds": 0.25},
    }
    batches = [{"tool": name, **counts} for name in ("read", "plain", "unknown")]
    harness.instance("reader").set_status(phase="ready", tools=tools, batches=batches)
    await harness.settled("reader")
    scrape = await scraped(harness.client)
    labels = {"plugin": "reader", "tool": "read"}
    sizes = [scrape.value("plugin_batch_size_bucket", **labels, le=le) for le in ("1.0", "2.0", "4.0", "+Inf")]
    assert sizes == [1, 1, 3, 3]
    assert scrape.value("plugin_batch_size_count", **labels) == 3
    assert scrape.value("plugin_batch_size_sum", **labels) == 9
    waits = [scrape.value("plugin_batch_wait_seconds_bucket", **labels, le=le) for le in ("0.001", "0.005", "+Inf")]
    assert waits == [2, 8, 9]
    assert scrape.value("plugin_batch_wait_seconds_sum", **labels) == 0.25
    assert scrape.value("plugin_batch_size_count", plugin="reader", tool="plain") is None
    assert scrape.value("plugin_batch_size_count", plugin="reader", tool="unknown") is None
    assert "batches" not in (await harness.health("reader"))["container"]


async def test_restarts_are_counted(lived_in: Harness) -> None:
    await lived_in.client.post("/v1/plugins/broken/restart", params={"wait": 5})
    scrape = await scraped(lived_in.client)
    assert scrape.value("plugin_restarts_total", plugin="broken") == 1
    assert scrape.value("plugin_generation", plugin="broken") == 2
    assert scrape.value("plugin_restarts_total", plugin="reader") == 0


# The orchestrator and its engine


async def test_the_engine_is_timed_by_operation(lived_in: Harness) -> None:
    """And the lag of its events is measured."""
    scrape = await scraped(lived_in.client)
    for operation in ("create", "start", "list", "image"):
        count = scrape.value("engine_request_duration_seconds_count", operation=operation)
        assert count is not None and count > 0, operation
    assert scrape.value("engine_reachable") == 1
    lag = scrape.value("engine_event_lag_seconds_count")
    assert lag is not None and lag > 0


async def test_an_unreachable_engine_shows(harness: Harness) -> None:
    """As unreachable, with its errors by operation and kind; and as reachable when it is back."""
    harness.add("reader", tools={"read": lambda: "text"})
    client = await harness.open()
    await harness.settled("reader")
    harness.engine.set_reachable(False)
    assert harness.app is not None
    with pytest.raises(EngineUnreachableError):
        await harness.app.state.context.fleet._deps.engine.info()
    scrape = await scraped(client)
    assert scrape.value("engine_reachable") == 0
    errors = scrape.value("engine_errors_total", operation="info", kind="unreachable")
    assert errors is not None and errors >= 1
    harness.engine.set_reachable(True)
    await harness.app.state.context.fleet._deps.engine.info()
    assert (await scraped(client)).value("engine_reachable") == 1


async def test_the_orchestrator_reports_on_itself(harness: Harness) -> None:
    scrape = await scraped(await harness.open())
    assert [f.samples[0].value for n, f in scrape.families.items() if n == f"{PREFIX}build_info"] == [1]
    assert scrape.value("event_readers") == 0
    assert scrape.value("history_problem") == 0
    assert scrape.value("history_lost_total") == 0
    assert "process_resident_memory_bytes" in scrape.names
