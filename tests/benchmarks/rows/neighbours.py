"""A healthy plugin's calls while another times out, runs out of memory or exits, and is restarted, over and over."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from benchmarks.bench import Bench, write_plugin
from benchmarks.containers import one_life
from benchmarks.figures import Figure, Target, ratios, rotated
from benchmarks.load import Load, Request
from benchmarks.rows.calls import BODY
from benchmarks.served import Served, served

INTERVAL = 0.005
"""Seconds between calls; a late one counts from when it was due."""
_SECONDS_AT_LEAST = 5.0
ENDS = ("hang", "eat", "leave")
"""Tools, each of which ends its plugin."""
TROUBLED = ("one", "two", "three")
QUIET, ONE, THREE = "undisturbed", "one", "three"
BY_HAND = "one by hand"
"""The same containers end and start without an orchestrator: the machine's own share."""
_SAID = {
    ONE: "another plugin ends",
    BY_HAND: "such a container ends without an orchestrator",
    THREE: "three others end",
}


def measure(bench: Bench) -> Iterator[Figure]:
    """Calls through the orchestrator, and at the same time calls straight to the plugin's socket."""
    p99: dict[tuple[str, str], list[float]] = {}
    with bench.plugins(["healthy"], concurrency=2) as folder:
        for name in TROUBLED:
            write_plugin(folder, name, bench.image, limits={"timeout": "500ms", "memory": "64MiB"})
        with served(folder) as orchestrator, orchestrator.docker() as engine:
            orchestrator.until_up()
            model = orchestrator.container(TROUBLED[0]).attrs
            ways = {
                "ours": Request.post(orchestrator.target, "/v1/plugins/healthy/tools/echo/run", BODY),
                "straight": Request.post(f"unix:{orchestrator.socket('healthy')}", "/tools/echo", BODY),
            }
            lives: dict[str, list[Callable[[str], None]]] = {
                QUIET: [],
                ONE: [partial(_life, orchestrator, TROUBLED[0])],
                BY_HAND: [partial(one_life, engine, model)],
                THREE: [partial(_life, orchestrator, name) for name in TROUBLED],
            }
            ends = dict.fromkeys(lives, 0)
            for round_number in range(max(2, bench.options.rounds)):
                for condition in rotated(tuple(lives), round_number):
                    with trouble(lives[condition]) as count:
                        for way, load in _called(bench, ways).items():
                            p99.setdefault((way, condition), []).append(load.p99 / 1000)
                    ends[condition] += sum(count)
    for condition, said in _SAID.items():
        worse = {way: ratios(p99[way, condition], p99[way, QUIET]) for way in ways}
        target = Target("≤", 1.5) if condition == ONE else None
        note = f"{ends[condition]} ends"
        yield Figure(f"healthy neighbour's p99 while {said}, over undisturbed", worse["ours"], "x", target, note=note)
        yield Figure("  the same straight to its socket", worse["straight"], "x")
    for (way, condition), milliseconds in sorted(p99.items()):
        yield Figure(f"  p99, {way}, {condition}", milliseconds, "ms")


def _called(bench: Bench, ways: Mapping[str, Request]) -> dict[str, Load]:
    seconds = max(_SECONDS_AT_LEAST, bench.options.seconds)
    running = {name: bench.load.begin(way, seconds=seconds, interval=INTERVAL) for name, way in ways.items()}
    return {name: load.result() for name, load in running.items()}


def _life(orchestrator: Served, name: str, tool: str) -> None:
    """End a plugin by that tool, and restart it."""
    orchestrator.run(name, tool)
    orchestrator.request("POST", f"/v1/plugins/{name}/restart?wait=30")


@contextmanager
def trouble(lives: Sequence[Callable[[str], None]]) -> Iterator[list[int]]:
    """Run each life again and again, ended by one tool after another; yield how often, in their order."""
    over, count = threading.Event(), [0] * len(lives)

    def again_and_again(number: int) -> None:
        for tool in itertools.islice(itertools.cycle(ENDS), number, None):
            if over.is_set():
                return
            with suppress(OSError):
                lives[number](tool)
                count[number] += 1

    threads = [threading.Thread(target=again_and_again, args=(number,)) for number in range(len(lives))]
    for thread in threads:
        thread.start()
    try:
        yield count
    finally:
        over.set()
        for thread in threads:
            thread.join()
