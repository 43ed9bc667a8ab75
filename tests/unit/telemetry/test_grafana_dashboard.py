"""The shipped Grafana dashboard: it uses existing metrics, in queries that Prometheus understands."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from support.harness import Harness
from support.metrics import PREFIX, scraped
from support.promtool import needs_promtool, promtool

from orchestrator import telemetry

DASHBOARD = Path(telemetry.__file__).parent / "grafana-dashboard.json"
SERIES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
"""What Prometheus adds to a family's name."""


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return content


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """As Grafana sends them."""
    written = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [query.replace("$__rate_interval", "5m").replace("$plugin", ".*") for query in written]


async def test_every_metric_it_names_exists(harness: Harness) -> None:
    """With or without a series now: a host may have no GPU. And it shows all of our metrics but a few."""
    scrape = await scraped(await harness.open())
    existing = {f.name + suffix for f in scrape.families.values() for suffix in SERIES[f.type]}
    named = set(re.findall(rf"\b(?:{PREFIX}|process_)\w+", " ".join(queries())))
    assert len(named) > 25
    assert named <= existing
    variables = " ".join(str(variable.get("definition", "")) for variable in dashboard()["templating"]["list"])
    assert set(re.findall(rf"{PREFIX}\w+", variables)) <= existing
    ours = {f.name for f in scrape.families.values() if f.name.startswith(PREFIX)}
    unseen = {family for family in ours if not any(name.startswith(family) for name in named)}
    # Of a single instance there is more in the plugin's own panels and in the list of instances.
    of_instances = {name for name in ours if name.startswith(PREFIX + "plugin_instance_")}
    assert unseen - of_instances == {
        PREFIX + name
        for name in (
            "plugin_generation",
            "plugin_stale",
            "plugin_uptime_seconds",
            "plugin_degraded",
            "plugin_caller_runs",
            "plugin_cpu_seconds",
            "gpu_healthy",
        )
    }


@needs_promtool
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"panel:query:{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    valid, output = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert valid, output
    assert f"{len(rules)} rules found" in output


def test_its_panels_do_not_overlap() -> None:
    """Each has a title and an id of its own, within Grafana's 24 columns."""
    taken: set[tuple[int, int]] = set()
    shown = dashboard()["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        area = panel["gridPos"]
        assert panel["title"] and area["x"] + area["w"] <= 24
        cells = {
            (x, y) for x in range(area["x"], area["x"] + area["w"]) for y in range(area["y"], area["y"] + area["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
