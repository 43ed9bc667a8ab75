"""The rows by name. Each module measures its subject and yields figures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.rows import (
    adoption,
    calls,
    cpu,
    ends,
    front,
    hundred,
    instances,
    neighbours,
    scale,
    starts,
    updates,
    upload,
)


class Row(NamedTuple):
    """Consecutive rows of one group share what they start."""

    measure: Callable[[Bench], Iterator[Figure]]
    about: str
    group: str = ""
    by_default: bool = True


ROWS: Final[Mapping[str, Row]] = {
    "calls": Row(calls.one_caller, "a small call, one caller: p50"),
    "cpu": Row(
        cpu.measure, "a small call: CPU of orchestrator and container, with --before beside an earlier commit's"
    ),
    "throughput": Row(calls.many_callers, "small calls, 16 callers: calls a second"),
    "front": Row(front.measure, "a small call through a front over the same host"),
    "hosts": Row(front.fifty_hosts, "a front over 50 simulated hosts of 20 plugins: CPU, memory, its list"),
    "replicas": Row(instances.replicas, "a tool of 10 ms CPU with one instance and with two: calls a second"),
    "batches": Row(instances.batches, "a batched tool and one that is not: calls a second"),
    "upload": Row(upload.measure, "10 MB: time, and the orchestrator's memory"),
    "starts": Row(starts.measure, "20 plugins from nothing to INITIALIZED"),
    "adoption": Row(adoption.measure, "the orchestrator killed and started over 20 plugins"),
    "killed": Row(ends.killed, "a container killed from outside, until the health API says so"),
    "deadline": Row(ends.deadline, "a tool over its time: the caller's answer, the container's end"),
    "neighbours": Row(neighbours.measure, "a healthy plugin's calls while others time out, are killed and restart"),
    "updates": Row(updates.measure, "a plugin's calls while it is updated without a pause"),
    "list": Row(hundred.listing, "GET /v1/plugins with 100 plugins, also while the engine is frozen", "hundred"),
    "hundred": Row(hundred.at_rest, "100 plugins at rest: memory, CPU", "hundred"),
    "scale": Row(scale.measure, "100 plugins started, used and killed at random for ten minutes", by_default=False),
}
