"""What a second instance, and what batches give: calls a second beside the same plugin without."""

import json
from collections.abc import Iterator

from benchmarks.bench import Bench, write_plugin
from benchmarks.figures import Figure, Target, ratios
from benchmarks.load import Request
from benchmarks.served import Served, served

BURNT = 10
"""Milliseconds of CPU that a call takes."""
BURNING_CALLERS = 4
DEVICE_CALLERS = 48
"""Three batches: one executes, one is full, one forms."""


def replicas(bench: Bench) -> Iterator[Figure]:
    """A tool of 10 ms CPU, with one instance and with two: on fewer than two idle cores there is nothing to gain."""
    with bench.plugins([]) as folder:
        for name, number in (("one", 1), ("two", 2)):
            write_plugin(folder, name, bench.image, replicas=number)
        with served(folder) as orchestrator:
            _until_whole(orchestrator)
            body = json.dumps({"milliseconds": BURNT}).encode()
            ways = {
                name: Request.post(orchestrator.target, f"/v1/plugins/{name}/tools/burn/run", body)
                for name in ("one", "two")
            }
            loads = bench.in_turn(ways, connections=BURNING_CALLERS)
    rates = {name: [load.per_second for load in taken] for name, taken in loads.items()}
    gain = ratios(rates["two"], rates["one"])
    yield Figure(f"{BURNT} ms of CPU, calls a second: two replicas over one", gain, "x", Target("≥", 1.8))
    for name, taken in rates.items():
        yield Figure(f"  calls a second, {name}", taken, "/s")


def batches(bench: Bench) -> Iterator[Figure]:
    """A device on which a call costs 5 ms, and a batch of 16 costs 8 ms: a batched tool beside one that is not."""
    with bench.plugins(["device"], queue=64) as folder, served(folder) as orchestrator:
        orchestrator.until_up()
        body = json.dumps({"texts": "The quick brown fox"}).encode()
        ways = {
            tool: Request.post(orchestrator.target, f"/v1/plugins/device/tools/{tool}/run", body)
            for tool in ("single", "batched")
        }
        loads = bench.in_turn(ways, connections=DEVICE_CALLERS)
    rates = {tool: [load.per_second for load in taken] for tool, taken in loads.items()}
    gain = ratios(rates["batched"], rates["single"])
    yield Figure("batches of 16, calls a second: batched over single", gain, "x", Target("≥", 5.0))
    for tool, taken in rates.items():
        yield Figure(f"  calls a second, {tool}", taken, "/s")


def _until_whole(orchestrator: Served) -> None:
    orchestrator.until_all(lambda plugin: plugin["replicas"]["ready"] == plugin["replicas"]["wanted"])
