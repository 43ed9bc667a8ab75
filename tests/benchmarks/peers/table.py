"""What a run tells: medians of each contestant, ratios of ours to each, targets, what was seen at ends. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.figures import Figure, Target, number
from benchmarks.peers.contestant import BURNT, ITEMS, Contestant
from benchmarks.peers.ends import End
from benchmarks.peers.samples import Samples

OURS: Final = "ours"
BEFORE: Final = "before"
"""Names of the project's own rows: today's code, and an earlier commit's."""


class Column(NamedTuple):
    """`key` as in `Samples`; the title names the unit."""

    key: str
    title: str
    in_table: bool = True


COLUMNS: Final = (
    Column("cpu", "small call, CPU of both ends, µs"),
    Column("p50", "small call, p50, ms"),
    Column("p99", "small call, p99, ms", in_table=False),
    Column("rate", "16 callers, calls/s"),
    Column("upload", "10 MB up, ms"),
    Column("upload_cpu", "10 MB up, CPU, ms", in_table=False),
    Column("stream", f"{ITEMS} items streamed, ms"),
    Column("work", f"{BURNT} ms of CPU, p50, ms"),
    Column("start", "start to first answer, s"),
    Column("memory", "memory of one plugin, MB"),
    Column("start_many", "8 plugins up, s"),
    Column("memory_many", "memory of 8, MB"),
)
_SHOWN: Final = tuple(column for column in COLUMNS if column.in_table)
_TITLES: Final = {column.key: column.title for column in COLUMNS}

TARGETS: Final = (
    ("cpu", BEFORE, Target("≤", 0.5)),
    ("cpu", "mosec", Target("≤", 2.0)),
    ("p50", "mosec", Target("≤", 2.0)),
    ("p50", "kserve", Target("≤", 0.9)),
    ("rate", "mosec", Target("≥", 0.55)),
    ("rate", "kserve", Target("≥", 1.2)),
    ("stream", "kserve", Target("≤", 1.0)),
    ("upload", "mosec", Target("≤", 0.9)),
    ("start", "mosec", Target("≤", 2.5)),
    ("memory_many", "mosec", Target("≤", 0.8)),
)
"""Column, over whom, and what ours over theirs has to be."""


def targets(samples: Samples) -> list[Figure]:
    """Those of which there are samples, as in `make bench`."""
    return [
        Figure(f"ours over {than}: {_name(key)}", found, "x", target)
        for key, than, target in TARGETS
        if (found := samples.ratios(OURS, than, key))
    ]


def markdown(samples: Samples, contestants: Sequence[Contestant], ends: Mapping[str, Mapping[str, End]]) -> str:
    """All tables, for a page."""
    parts = [
        "Medians of the rounds, and the least and the most in parentheses:",
        _table(["server", *(column.title for column in _SHOWN)], [_values(samples, one) for one in contestants]),
        "Ours over each, medians of the rounds' ratios (below 1 ours is better; of calls a second, above 1):",
        _table(
            ["ours over", *(column.title for column in _SHOWN)],
            [_ratios(samples, one) for one in contestants if one.name != OURS],
        ),
        "What stands between two plugins, and between a plugin and the server:",
        "\n".join(f"- **{one.title}**: {one.isolation}." for one in contestants),
    ]
    if figures := targets(samples):
        parts += ["Targets:", _table(["figure", "target", "value", "spread", "verdict"], map(_target, figures))]
    if ends:
        head = ["server", "the call", "the next call", "health", "another plugin's call", "the server"]
        for kind, title, more in (("load", _LOAD, []), ("kill", _KILL, ["serves again"])):
            rows = [_end(one, kind, ends, samples, wide=bool(more)) for one in contestants]
            parts += [title, _table([*head, *more], rows)]
    if faults := [line for one in contestants for line in _faults(samples, one)]:
        parts += ["Not measured, or in fewer rounds:", "\n".join(faults)]
    return "\n\n".join(parts) + "\n"


_LOAD: Final = "One of two plugins cannot be loaded (it raises an error):"
_KILL: Final = "The process that executes one plugin's tool is killed (SIGKILL) within a call:"


def _values(samples: Samples, one: Contestant) -> list[str]:
    return [one.title, *(_value(samples.of(one.name, column.key)) for column in _SHOWN)]


def _value(found: Sequence[float]) -> str:
    if not found:
        return "-"
    median = number(statistics.median(found))
    return median if len(found) == 1 else f"{median} ({number(min(found))}…{number(max(found))})"


def _ratios(samples: Samples, one: Contestant) -> list[str]:
    ratios = (samples.ratios(OURS, one.name, column.key) for column in _SHOWN)
    return [one.title, *(number(statistics.median(found)) if found else "-" for found in ratios)]


def _target(figure: Figure) -> list[str]:
    spread = f"{number(min(figure.samples))} … {number(max(figure.samples))}, n={len(figure.samples)}"
    return [figure.name, str(figure.target), f"{number(figure.value)} x", spread, figure.verdict.lower()]


def _end(
    one: Contestant, kind: str, ends: Mapping[str, Mapping[str, End]], samples: Samples, *, wide: bool
) -> list[str]:
    end = ends.get(one.name, {}).get(kind)
    if end is None:
        return [one.title, samples.fault(one.name, kind) or "-", *[""] * (4 + wide)]
    return [
        one.title,
        end.caller,
        end.next_caller,
        end.health,
        end.neighbour,
        end.server,
        *([end.back] if wide else []),
    ]


def _faults(samples: Samples, one: Contestant) -> list[str]:
    """Each reason once, with the columns that it explains."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in samples.faults.get(one.name, {}).items():
        by_reason.setdefault(reason, []).append(_name(key))
    return [f"- {one.title}, {'; '.join(titles)}: {_cell(reason)}" for reason, titles in by_reason.items()]


def _name(key: str) -> str:
    """A column's title without its unit; the keys of ends as they are; "" is all of them."""
    return _TITLES[key].rpartition(", ")[0] if key in _TITLES else key or "everything"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
