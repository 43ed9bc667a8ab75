"""A healthy plugin's calls while another times out, is killed for memory, leaves, and is restarted at once, always."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from benchmarks.bench import Bench, write_plugin
from benchmarks.figures import Figure, Target, ratios
from benchmarks.load import Load, Request
from benchmarks.rows.calls import BODY
from benchmarks.served import Served, served

INTERVAL = 0.005
"""Seconds between calls; a late one counts from when it was due."""
_SECONDS_AT_LEAST = 5.0
ENDS = ("hang", "eat", "leave")
"""Tools, each of which ends its plugin."""
TROUBLED = ("one", "two", "three")


def measure(bench: Bench) -> Iterator[Figure]:
    """Calls through the orchestrator, and others straight to the socket at the same time: what of the disturbance is
    the machine's. First one other plugin ends again and again, then three at once.
    """
    conditions: Mapping[str, Sequence[str]] = {"undisturbed": (), "one": TROUBLED[:1], "three": TROUBLED}
    p99: dict[tuple[str, str], list[float]] = {}
    ends = dict.fromkeys(conditions, 0)
    with bench.plugins(["healthy"], concurrency=2) as folder:
        for name in TROUBLED:
            write_plugin(folder, name, bench.image, limits={"timeout": "500ms", "memory": "64MiB"})
        with served(folder) as orchestrator:
            orchestrator.until_up()
            ways = {
                "ours": Request.post(orchestrator.target, "/v1/plugins/healthy/tools/echo/run", BODY),
                "straight": Request.post(f"unix:{orchestrator.socket('healthy')}", "/tools/echo", BODY),
            }
            for _ in range(max(2, bench.options.rounds)):
                for condition, names in conditions.items():
                    with trouble(orchestrator, names) as count:
                        for way, load in _called(bench, ways).items():
                            p99.setdefault((way, condition), []).append(load.p99 / 1000)
                    ends[condition] += sum(count.values())
    for condition, said in (("one", "another plugin ends"), ("three", "three others end")):
        worse = {way: ratios(p99[way, condition], p99[way, "undisturbed"]) for way in ways}
        target = Target("≤", 1.5) if condition == "one" else None
        note = f"{ends[condition]} ends"
        yield Figure(f"healthy neighbour's p99 while {said}, over undisturbed", worse["ours"], "x", target, note=note)
        yield Figure("  the same straight to its socket", worse["straight"], "x")
    for (way, condition), milliseconds in p99.items():
        yield Figure(f"  p99, {way}, {condition}", milliseconds, "ms")


def _called(bench: Bench, ways: Mapping[str, Request]) -> dict[str, Load]:
    seconds = max(_SECONDS_AT_LEAST, bench.options.seconds)
    running = {name: bench.load.begin(way, seconds=seconds, interval=INTERVAL) for name, way in ways.items()}
    return {name: load.result() for name, load in running.items()}


@contextmanager
def trouble(orchestrator: Served, names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Each of these plugins is ended in one way after another, and restarted without a pause; how often, by plugin."""
    over, count = threading.Event(), dict.fromkeys(names, 0)

    def again_and_again(name: str, first: int) -> None:
        for tool in itertools.islice(itertools.cycle(ENDS), first, None):
            if over.is_set():
                return
            with suppress(OSError):
                orchestrator.run(name, tool)
                count[name] += 1
                orchestrator.ask("POST", f"/v1/plugins/{name}/restart?wait=30")

    threads = [threading.Thread(target=again_and_again, args=(name, first)) for first, name in enumerate(names)]
    for thread in threads:
        thread.start()
    try:
        yield count
    finally:
        over.set()
        for thread in threads:
            thread.join()
