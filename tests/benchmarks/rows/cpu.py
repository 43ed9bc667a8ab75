"""CPU time of a small call at both ends, beside that of an earlier commit."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.before import PROJECT, Earlier, earlier
from benchmarks.bench import Bench, write_plugin
from benchmarks.figures import Figure, Target, ratios, rotated
from benchmarks.load import Load, Request
from benchmarks.processes import cpu_nanoseconds
from benchmarks.rows.calls import BODY, CALLERS, WIDE_MANIFEST
from benchmarks.served import Served, served

_PLUGINS: Final = {"narrow": 1, "wide": CALLERS}
"""Plugin → callers. `wide` runs 16 at once, so that none queues."""
_MANIFESTS: Final[Mapping[str, Mapping[str, Any]]] = {"narrow": {}, "wide": WIDE_MANIFEST}


class Build:
    """One build with both plugins up."""

    def __init__(self, orchestrator: Served) -> None:
        self._orchestrator = orchestrator
        self._targets = {
            plugin: Request.post(orchestrator.target, f"/v1/plugins/{plugin}/tools/echo/run", BODY)
            for plugin in _PLUGINS
        }
        self._processes = {
            plugin: [int(process[1]) for process in orchestrator.container(plugin).top()["Processes"]]
            for plugin in _PLUGINS
        }

    def load(self, bench: Bench, plugin: str, seconds: float) -> tuple[Load, float, float]:
        """The load, and microseconds of CPU for each call: of the orchestrator, and of the container."""
        ends = [self._orchestrator.pid], self._processes[plugin]
        before = [sum(map(cpu_nanoseconds, pids)) for pids in ends]
        load = bench.load.run(self._targets[plugin], connections=_PLUGINS[plugin], seconds=seconds)
        spent = [sum(map(cpu_nanoseconds, pids)) - then for pids, then in zip(ends, before, strict=True)]
        own, container = (nanoseconds / load.requests / 1000 for nanoseconds in spent)
        return load, own, container


def measure(bench: Bench) -> Iterator[Figure]:
    """Medians of rounds; with `--before COMMIT` that commit takes its turn in each round."""
    with ExitStack() as stack:
        builds = {"now": Build(_up(stack, bench, None))}
        if bench.options.before:
            builds["before"] = Build(_up(stack, bench, stack.enter_context(earlier(bench.options.before))))
        for build in builds.values():
            for plugin in _PLUGINS:
                build.load(bench, plugin, 0.5)
        taken: dict[tuple[str, str], list[tuple[Load, float, float]]] = {}
        for round_number in range(bench.options.rounds):
            for name in rotated(list(builds), round_number):
                for plugin in _PLUGINS:
                    sample = builds[name].load(bench, plugin, bench.options.seconds)
                    taken.setdefault((name, plugin), []).append(sample)
    for plugin, callers in _PLUGINS.items():
        yield from _figures(
            f"{callers} caller{'s' * (callers > 1)}", taken["now", plugin], taken.get(("before", plugin))
        )


def _figures(
    title: str, now: list[tuple[Load, float, float]], before: list[tuple[Load, float, float]] | None
) -> Iterator[Figure]:
    both = [own + container for _, own, container in now]
    if before is not None:
        than = [own + container for _, own, container in before]
        target = Target("≤", 0.5)
        yield Figure(f"small call, {title}, CPU of both ends: now over before", ratios(both, than), "x", target)
        pairs = list(zip(now, before, strict=True))
        yield Figure("  the orchestrator's alone", [one[1] / other[1] for one, other in pairs], "x")
        yield Figure("  the container's alone", [one[2] / other[2] for one, other in pairs], "x")
        yield Figure("  p50", [one[0].p50 / other[0].p50 for one, other in pairs], "x")
        yield Figure("  calls a second", [one[0].per_second / other[0].per_second for one, other in pairs], "x")
        yield Figure(f"  {title}, CPU of both ends, before", than, "µs")
    yield Figure(f"  {title}, CPU of both ends", both, "µs")
    yield Figure("    of that the orchestrator's", [own for _, own, _ in now], "µs")
    yield Figure("    of that the container's", [container for *_, container in now], "µs")
    yield Figure("    calls a second", [load.per_second for load, *_ in now], "/s")


def _up(stack: ExitStack, bench: Bench, before: Earlier | None) -> Served:
    folder = stack.enter_context(bench.plugins([]))
    for plugin, manifest in _MANIFESTS.items():
        write_plugin(folder, plugin, before.image if before else bench.image, **manifest)
    code = before.folder if before else PROJECT
    orchestrator = stack.enter_context(served(folder, before.environment if before else None, code=code))
    orchestrator.until_up()
    return orchestrator
