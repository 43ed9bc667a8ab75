"""A healthy plugin's calls while others time out, are killed for memory, leave, and are restarted at once, for ever."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from benchmarks.bench import Bench, write_plugin
from benchmarks.figures import Figure, Target, ratios
from benchmarks.load import Load, Request
from benchmarks.rows.calls import BODY
from benchmarks.served import Served, served

INTERVAL = 0.005
"""Seconds between calls; a late one counts from when it was due."""
_SECONDS_AT_LEAST = 5.0
TROUBLE: Mapping[str, str] = {"times-out": "hang", "eats": "eat", "leaves": "leave"}
"""Plugin → the tool that ends it."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Calls through the orchestrator, and others straight to the socket at the same time: what of the disturbance is
    the machine's.
    """
    quiet: dict[str, list[float]] = {"ours": [], "straight": []}
    loud: dict[str, list[float]] = {"ours": [], "straight": []}
    ends = 0
    with bench.plugins(["healthy"], concurrency=2) as folder:
        for name in TROUBLE:
            write_plugin(folder, name, bench.image, limits={"timeout": "500ms", "memory": "64MiB"})
        with served(folder) as orchestrator:
            orchestrator.until_up()
            ways = {
                "ours": Request.post(orchestrator.target, "/v1/plugins/healthy/tools/echo/run", BODY),
                "straight": Request.post(f"unix:{orchestrator.socket('healthy')}", "/tools/echo", BODY),
            }
            for _ in range(max(2, bench.options.rounds // 2)):
                for name, load in _called(bench, ways).items():
                    quiet[name].append(load.p99 / 1000)
                with trouble(orchestrator) as count:
                    for name, load in _called(bench, ways).items():
                        loud[name].append(load.p99 / 1000)
                ends += sum(count.values())
    disturbed = ratios(loud["ours"], quiet["ours"])
    yield Figure("healthy neighbour's p99: disturbed over undisturbed", disturbed, "x", Target("≤", 1.5))
    yield Figure("  the same straight to its socket", ratios(loud["straight"], quiet["straight"]), "x")
    for way, undisturbed in quiet.items():
        yield Figure(f"  p99 undisturbed, {way}", undisturbed, "ms")
        yield Figure(
            f"  p99 disturbed, {way}", loud[way], "ms", note=f"{ends} neighbours ended" if way == "ours" else ""
        )


def _called(bench: Bench, ways: Mapping[str, Request]) -> dict[str, Load]:
    seconds = max(_SECONDS_AT_LEAST, bench.options.seconds)
    running = {name: bench.load.begin(way, seconds=seconds, interval=INTERVAL) for name, way in ways.items()}
    return {name: load.result() for name, load in running.items()}


@contextmanager
def trouble(orchestrator: Served) -> Iterator[dict[str, int]]:
    """Each of the troubled plugins is called and restarted without a pause; how often, by plugin."""
    over, count = threading.Event(), dict.fromkeys(TROUBLE, 0)

    def again_and_again(name: str, tool: str) -> None:
        while not over.is_set():
            with suppress(OSError):
                orchestrator.run(name, tool)
                count[name] += 1
                orchestrator.ask("POST", f"/v1/plugins/{name}/restart?wait=30")

    threads = [threading.Thread(target=partial(again_and_again, *item)) for item in TROUBLE.items()]
    for thread in threads:
        thread.start()
    try:
        yield count
    finally:
        over.set()
        for thread in threads:
            thread.join()
