"""A hundred plugins on one host: their list, and what they use at rest."""

import http.client
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench, Hundred, frozen
from benchmarks.figures import Figure, Target, ratios
from benchmarks.floors import floor
from benchmarks.load import Request
from benchmarks.processes import cpu_seconds, resident
from benchmarks.served import Served

CALLERS = 16
_MEGA = 1_000_000
_SETTLE = 5.0
"""Seconds until the work after a start is done."""
_PROBE_EVERY: Final = 300.0
"""Seconds between two of the engine's probes of one container's health."""
_EXECS: Final = 20


def listing(bench: Bench) -> Iterator[Figure]:
    """The list's throughput beside that of a bare route with the same bytes; then with the engine frozen."""
    hundred = bench.hundred()
    ours = Request.get(hundred.orchestrator.target, "/v1/plugins")
    content = _bytes(hundred.orchestrator)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        with floor("bytes", file.name) as target:
            ways = {"ours": ours, "bare": Request.get(target, "/bytes")}
            loads = bench.in_turn(ways, connections=CALLERS)
            rates = {name: [load.per_second for load in taken] for name, taken in loads.items()}
            yield Figure(
                f"GET /v1/plugins, {bench.options.plugins} plugins: ours over bare Starlette",
                ratios(rates["ours"], rates["bare"]),
                "x",
                Target("≥", 0.7),
                note=f"{len(content)} bytes",
            )
            yield Figure("  lists a second, ours", rates["ours"], "/s")
            yield Figure("  lists a second, bare Starlette", rates["bare"], "/s")
            if hundred.engine is None:
                return
            with frozen(hundred.engine):
                stale_after = _until_stale(hundred)
                loads = bench.in_turn(ways, connections=CALLERS)
    still = {name: [load.per_second for load in taken] for name, taken in loads.items()}
    # Relative to the bare route in the same round, so that other load on the machine is not mistaken for the freeze.
    before = ratios(rates["ours"], rates["bare"])
    now = ratios(still["ours"], still["bare"])
    yield Figure("  the same with the engine frozen, over before", ratios(now, before), "x", Target("≥", 0.95))
    yield Figure(
        "  answers other than 2xx while frozen", [float(load.bad) for load in loads["ours"]], "", Target("≤", 0)
    )
    yield Figure("  `stale: true` everywhere after", [stale_after], "s")


def at_rest(bench: Bench) -> Iterator[Figure]:
    """Memory and CPU of everything while no request arrives."""
    hundred = bench.hundred()
    orchestrator, seconds = hundred.orchestrator, bench.options.idle_seconds
    up = sum(plugin["state"] == "INITIALIZED" for plugin in orchestrator.plugins())
    time.sleep(_SETTLE)
    own, engine, theirs = cpu_seconds(orchestrator.pid), _engine_cpu(hundred), _stats(orchestrator)
    started = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    own, engine = cpu_seconds(orchestrator.pid) - own, _engine_cpu(hundred) - engine
    stats = _stats(orchestrator)
    containers = sum(_cpu(stats[name]) - _cpu(before) for name, before in theirs.items())
    n = bench.options.plugins
    yield Figure(f"{n} plugins on one host: INITIALIZED", [float(up)], "", Target("≥", n))
    yield Figure("  orchestrator's memory", [resident(orchestrator.pid) / _MEGA], "MB", Target("<", 150))
    memory = [_working_set(of_one) / _MEGA for of_one in stats.values()]
    yield Figure("  each runtime's memory (its container's working set)", memory, "MB", Target("<", 30), measure="max")
    yield Figure("  CPU at rest, all together", [(own + containers) / passed * 100], "% of a core", Target("<", 5))
    yield Figure("    of that the orchestrator", [own / passed * 100], "% of a core")
    yield Figure("    of that the containers, engine's probes included", [containers / passed * 100], "% of a core")
    floor_share = _exec_cost(orchestrator) * n / _PROBE_EVERY * 100
    yield Figure("      of that the probes' execs, were `true` all they ran", [floor_share], "% of a core")
    if hundred.engine is not None:
        yield Figure("    beside it the engine itself", [engine / passed * 100], "% of a core")
    yield Figure("  all up after", [hundred.seconds_to_start], "s")


def _bytes(orchestrator: Served) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", orchestrator.port)
    connection.request("GET", "/v1/plugins")
    content = connection.getresponse().read()
    connection.close()
    return content


def _until_stale(hundred: Hundred) -> float:
    started = time.monotonic()
    return hundred.orchestrator.until_all(lambda plugin: plugin["stale"], within=60, poll=0.1) - started


def _stats(orchestrator: Served) -> dict[str, Mapping[str, Any]]:
    """The engine's statistics of each container, by its id."""
    containers = orchestrator.containers()
    with orchestrator.docker() as client, ThreadPoolExecutor(8) as pool:
        ids = [container.id for container in containers]
        return dict(zip(ids, pool.map(partial(client.api.stats, stream=False, one_shot=True), ids), strict=True))


def _exec_cost(orchestrator: Served) -> float:
    """Seconds of CPU time that an exec costs its container, whatever it runs."""
    with orchestrator.docker() as client:
        container = client.containers.get(orchestrator.containers()[0].id)
        before = _cpu(client.api.stats(container.id, stream=False, one_shot=True))
        for _ in range(_EXECS):
            container.exec_run(["true"])
        return (_cpu(client.api.stats(container.id, stream=False, one_shot=True)) - before) / _EXECS


def _cpu(stats: Mapping[str, Any]) -> float:
    """CPU seconds of all of a container's processes so far."""
    return int(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


def _working_set(stats: Mapping[str, Any]) -> int:
    """Bytes that the kernel cannot reclaim freely, as `docker stats` counts them (cgroup v1 and v2)."""
    memory = stats["memory_stats"]
    detail = memory["stats"]
    inactive = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return int(memory["usage"] - inactive)


def _engine_cpu(hundred: Hundred) -> float:
    """CPU seconds of the engine's own processes: dockerd, containerd, a shim for each container."""
    if hundred.engine is None:
        return 0.0
    folder, seconds = str(hundred.engine.folder).encode(), 0.0  # all of them have it on their command line
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has exited
            if entry.name.isdigit() and folder in (entry / "cmdline").read_bytes():
                seconds += cpu_seconds(int(entry.name))
    return seconds
