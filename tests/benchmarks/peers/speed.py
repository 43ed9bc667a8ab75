"""Loads: everything compared is up at the same time, and is called in rounds whose order changes."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import rotated
from benchmarks.load import Load, LoadGenerator, Request
from benchmarks.peers.answers import fault_of, post, until_it_answers
from benchmarks.peers.contestant import PLUGIN, Contestant, Setup, Tool
from benchmarks.peers.process_tree import cpu
from benchmarks.peers.samples import Samples
from benchmarks.rows.calls import CALLERS

UPLOAD: Final = 10_000_000
_WARM_UP: Final = 0.3


@dataclass(frozen=True)
class Measured:
    """A load, and the CPU time of all processes that served it, in nanoseconds."""

    load: Load
    cpu: int


@dataclass(frozen=True)
class Probe:
    """A load, and how its columns are read. Ends after `share` of the seconds, or `requests` (0: no limit)."""

    tool: Tool
    callers: int
    columns: Mapping[str, Callable[[Measured], float]]
    share: float = 1.0
    requests: int = 0


PROBES: Final = (
    Probe(
        Tool.ECHO,
        1,
        {
            "cpu": lambda found: found.cpu / found.load.requests / 1000,
            "p50": lambda found: found.load.p50 / 1000,
            "p99": lambda found: found.load.p99 / 1000,
        },
    ),
    Probe(Tool.ECHO, CALLERS, {"rate": lambda found: found.load.per_second}),
    Probe(
        Tool.DIGEST,
        1,
        {
            "upload": lambda found: found.load.p50 / 1000,
            "upload_cpu": lambda found: found.cpu / found.load.requests / 1_000_000,
        },
        share=5,
        requests=5,
    ),
    Probe(Tool.ITEMS, 1, {"stream": lambda found: found.load.p50 / 1000}, share=0.5),
    Probe(Tool.BURN, 1, {"work": lambda found: found.load.p50 / 1000}, share=0.5),
)
_COLUMNS: Final = tuple(column for probe in PROBES for column in probe.columns)


@dataclass(frozen=True)
class _Up:
    """A contestant that answers: its processes, and the requests of the probes that it answers rightly."""

    pids: set[int]
    requests: Sequence[tuple[Probe, Request]]


def measure(
    contestants: Sequence[Contestant],
    generator: LoadGenerator,
    samples: Samples,
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    """Fill the columns of the probes. Who does not start, or answers a tool wrongly, is noted in `samples`."""
    content = b"\xff" + os.urandom(UPLOAD - 1)  # not to be taken for JSON
    with ExitStack() as stack:
        up: dict[str, _Up] = {}
        for contestant in contestants:
            say(f"{contestant.name}: starting")
            with samples.noting(contestant.name, *_COLUMNS):
                up[contestant.name] = _start(stack, contestant, content, generator, samples)
        for number in range(rounds if up else 0):
            say(f"round {number + 1} of {rounds}")
            samples.begin_round(_COLUMNS)
            for name in rotated(list(up), number):
                for probe, request in up[name].requests:
                    with samples.noting(name, *probe.columns):
                        found = _load(generator, up[name].pids, probe, request, seconds * probe.share)
                        for column, read in probe.columns.items():
                            samples.add(name, column, read(found))


def _start(stack: ExitStack, contestant: Contestant, content: bytes, generator: LoadGenerator, samples: Samples) -> _Up:
    """Start it, hold each tool's answer against what it must be, and warm it up."""
    running = stack.enter_context(contestant.running(Setup(for_load=True)))
    until_it_answers(contestant, running, PLUGIN)
    requests: list[tuple[Probe, Request]] = []
    for probe in PROBES:
        with samples.noting(contestant.name, *probe.columns):
            call = contestant.call(probe.tool, PLUGIN, content, probe.callers)
            request = call.to(running.target(PLUGIN, probe.tool))
            if fault := fault_of(probe.tool, content, post(request, 30)):
                raise RuntimeError(f"{probe.tool}: {fault}")
            generator.run(request, connections=probe.callers, seconds=_WARM_UP, strict=False)
            requests.append((probe, request))
    return _Up(running.pids(), requests)


def _load(generator: LoadGenerator, pids: set[int], probe: Probe, request: Request, seconds: float) -> Measured:
    """Raises RuntimeError if an answer was bad."""
    before = cpu(pids)
    load = generator.run(request, connections=probe.callers, seconds=seconds, requests=probe.requests, strict=False)
    spent = cpu(pids) - before
    if load.bad or load.broken or not load.requests:
        callers = f"{probe.callers} caller{'s' * (probe.callers > 1)}"
        raise RuntimeError(
            f"{probe.tool}, {callers}: {load.bad} of {load.requests} answers bad (the first a {load.first_bad}), "
            f"{load.broken} connections broken"
        )
    return Measured(load, spent)
