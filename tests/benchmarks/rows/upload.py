"""A large upload, through the orchestrator and straight to the plugin's socket; the orchestrator's memory meanwhile."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, ratios
from benchmarks.load import Request
from benchmarks.nginx import nginx
from benchmarks.processes import forget_peak, peak, resident
from benchmarks.rows.calls import BODY

SIZE = 10_000_000
UPLOADS = 5
"""A sample is the median of this many."""
_MEGA = 1_000_000
_TYPE = "application/octet-stream"


def measure(bench: Bench) -> Iterator[Figure]:
    """`bytes`: in the plugin's memory. `Path`: on its disk."""
    content = os.urandom(SIZE)
    with ExitStack() as stack:
        orchestrator = stack.enter_context(bench.up(["eater"]))
        socket = orchestrator.socket("eater")
        for _ in range(2):  # warms its code paths; none of these is an upload
            bench.load.run(Request.post(orchestrator.target, "/v1/plugins/eater/tools/echo/run", BODY), requests=200)
        before = resident(orchestrator.pid)
        forget_peak(orchestrator.pid)
        ways = {}
        for tool, kind in (("size", "bytes"), ("stored", "Path")):
            ways[f"{kind}, ours"] = Request.post(
                orchestrator.target, f"/v1/plugins/eater/tools/{tool}/run", content, _TYPE
            )
            ways[f"{kind}, straight"] = Request.post(f"unix:{socket}", f"/tools/{tool}", content, _TYPE)
        if (proxy := stack.enter_context(nginx(socket))) is not None:
            ways["bytes, nginx"] = Request.post(proxy, "/tools/size", content, _TYPE)
        loads = bench.in_turn(ways, number=UPLOADS)
        grown = peak(orchestrator.pid) - before
        left = resident(orchestrator.pid) - before
    times = {name: [load.p50 / 1000 for load in taken] for name, taken in loads.items()}
    for kind in ("bytes", "Path"):
        took = ratios(times[f"{kind}, ours"], times[f"{kind}, straight"])
        yield Figure(f"10 MB upload ({kind}): ours over straight to the socket", took, "x", Target("≤", 1.25))
    yield Figure("orchestrator's memory during the uploads, beyond before", [grown / _MEGA], "MB", Target("<", 2))
    yield Figure("  after the uploads, beyond before", [left / _MEGA], "MB")
    for name, taken in times.items():
        yield Figure(f"  10 MB upload, {name}", taken, "ms")
