"""A small call through the orchestrator, beside all cheaper ways to make it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from benchmarks.bench import Bench, write_plugin
from benchmarks.figures import Figure, Target, ratios
from benchmarks.floors import floor
from benchmarks.load import Request
from benchmarks.nginx import nginx
from benchmarks.served import served

BODY = json.dumps({"text": "The quick brown fox jumps over the lazy dog"}).encode()
CALLERS = 16
WIDE_MANIFEST = {"concurrency": CALLERS, "limits": {"pids": 1024}}
"""Manifest of a plugin that runs all of them at once: its batched tool may need a thread for each call that waits."""
OURS, WIDE = "through the orchestrator", "through the orchestrator, concurrency 16"
ECHO = "bare FastAPI POST, raw body"
_FLOORS = {
    "bare FastAPI POST, body as JSON": ("echo-json", "/echo"),
    "in the server's own process, in a thread": ("in-process", "/run/echo"),
}


def one_caller(bench: Bench) -> Iterator[Figure]:
    """p50 of consecutive calls."""
    missing: list[str] = []
    with _ways(bench, missing) as ways:
        loads = bench.in_turn({name: way for name, way in ways.items() if name != WIDE})
    times = {name: [load.p50 / 1000 for load in taken] for name, taken in loads.items()}
    yield Figure("small call, p50: ours over bare FastAPI", ratios(times[OURS], times[ECHO]), "x", Target("≤", 2.0))
    for name, taken in times.items():
        yield Figure(f"  p50, {name}", taken, "ms")
    yield Figure(
        "  p99, through the orchestrator", [load.p99 / 1000 for load in loads[OURS]], "ms", note="".join(missing)
    )


def many_callers(bench: Bench) -> Iterator[Figure]:
    """Calls a second with 16 callers."""
    missing: list[str] = []
    with _ways(bench, missing) as ways:
        loads = bench.in_turn(ways, connections=CALLERS)
    rates = {name: [load.per_second for load in taken] for name, taken in loads.items()}
    yield Figure(
        "16 callers, calls a second: ours over bare FastAPI", ratios(rates[OURS], rates[ECHO]), "x", Target("≥", 0.5)
    )
    for name, taken in rates.items():
        yield Figure(f"  calls a second, {name}", taken, "/s", note="".join(missing) if name == OURS else "")


@contextmanager
def _ways(bench: Bench, missing: list[str]) -> Iterator[Mapping[str, Request]]:
    """Yield name → the same call that way. Ways that are not available here are named in `missing`."""
    with ExitStack() as stack:
        folder = stack.enter_context(bench.plugins(["narrow"]))
        write_plugin(folder, "wide", bench.image, **WIDE_MANIFEST)
        orchestrator = stack.enter_context(served(folder))
        orchestrator.until_up()
        socket = orchestrator.socket("narrow")
        ways = {
            ECHO: Request.post(stack.enter_context(floor("echo")), "/echo", BODY),
            **{
                name: Request.post(stack.enter_context(floor(kind)), path, BODY)
                for name, (kind, path) in _FLOORS.items()
            },
            "straight to the plugin's socket": Request.post(f"unix:{socket}", "/tools/echo", BODY),
        }
        proxy = stack.enter_context(nginx(socket))
        if proxy is None:
            missing.append("no nginx here: make test-tools")
        else:
            ways["nginx before the plugin's socket"] = Request.post(proxy, "/tools/echo", BODY)
        ways[OURS] = Request.post(orchestrator.target, "/v1/plugins/narrow/tools/echo/run", BODY)
        ways[WIDE] = Request.post(orchestrator.target, "/v1/plugins/wide/tools/echo/run", BODY)
        yield ways
