"""A plugin's calls while it is updated without a pause, beside the same calls undisturbed."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, ratios, rotated
from benchmarks.load import Load, Request
from benchmarks.rows.calls import BODY
from benchmarks.rows.neighbours import trouble
from benchmarks.served import Served, served

INTERVAL = 0.02
"""Seconds between calls; a late one counts from when it was due."""
_SECONDS_AT_LEAST = 10.0
QUIET, UPDATED = "undisturbed", "updated"


def measure(bench: Bench) -> Iterator[Figure]:
    """`overlap`, 50 calls a second. Each update is proven by a sample call."""
    loads: dict[str, list[Load]] = {QUIET: [], UPDATED: []}
    with bench.plugins(["steady"], concurrency=2) as folder, served(folder) as orchestrator:
        orchestrator.until_up()
        updates = _Updates(orchestrator, folder / "steady")
        calls = Request.post(orchestrator.target, "/v1/plugins/steady/tools/echo/run", BODY)
        for round_number in range(max(2, bench.options.rounds)):
            for condition in rotated((QUIET, UPDATED), round_number):
                with trouble([updates.one] if condition == UPDATED else []):
                    seconds = max(_SECONDS_AT_LEAST, bench.options.seconds)
                    loads[condition].append(bench.load.begin(calls, seconds=seconds, interval=INTERVAL).result())
    p99 = {condition: [load.p99 / 1000 for load in taken] for condition, taken in loads.items()}
    made, lost = sum(load.requests for load in loads[UPDATED]), sum(load.bad + load.broken for load in loads[UPDATED])
    note = f"{updates.settled} of {updates.made} updates SETTLED"
    yield Figure(f"calls lost of {made} while the plugin is updated", [lost], "calls", Target("≤", 0), note=note)
    yield Figure("p99 of calls while updated, over undisturbed", ratios(p99[UPDATED], p99[QUIET]), "x", Target("≤", 2))
    for condition, milliseconds in p99.items():
        yield Figure(f"  p99, {condition}", milliseconds, "ms")


class _Updates:
    def __init__(self, orchestrator: Served, folder: Path) -> None:
        self.made = self.settled = 0
        self._orchestrator = orchestrator
        self._folder = folder
        (folder / "samples").mkdir()
        calls = [{"tool": "echo", "arguments": json.loads(BODY)}]
        (folder / "samples" / "calls.yaml").write_text(yaml.safe_dump(calls))

    def one(self, _tool: str) -> None:
        self.made += 1
        path = self._folder / "plugin.yaml"
        fields = {**yaml.safe_load(path.read_text()), "version": f"1.{self.made}.0"}
        fields["update"] = {"strategy": "overlap", "observe": "100ms"}
        path.write_text(yaml.safe_dump(fields))
        _, answer = self._orchestrator.request("POST", "/v1/plugins/steady/update?wait=60")
        self.settled += answer.get("step") == "SETTLED"
