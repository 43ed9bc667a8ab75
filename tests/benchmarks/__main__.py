"""`make bench ARGS="calls upload"`: measure the rows that are named, print one table, write one JSON."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks import facts
from benchmarks.bench import Bench, Options, build_image
from benchmarks.figures import Figure, table
from benchmarks.load import load_generator
from benchmarks.rows import ROWS

_HELP = {
    "rounds": "rounds in which everything compared runs once; 5",
    "seconds": "length of each load; 2",
    "plugins": "plugins on one host, in the rows with many; 100",
    "idle_seconds": "length of the measurement at rest; 60",
    "scale_minutes": "length of the row `scale`; 10",
    "seed": "seed of everything random; 1",
    "before": "commit that the row `cpu` measures beside today's code; none",
}
_BUSY = 0.5
"""Load for each core before the start, above which the figures say little."""


def main() -> int:
    """Return the exit code: 1 if a row could not be measured; a missed target is no error."""
    options, names, file = _arguments()
    busyness = facts.Busyness()
    machine = facts.machine()
    if busyness.load_at_begin > _BUSY * (machine["cores"] or 1):
        _say(f"the machine is busy (load {busyness.load_at_begin:.1f}); the figures will say little")
    figures, failures = _measure(options, names)
    busy = busyness.report()
    if figures:
        print(f"\n{table(figures)}\n")
    print(
        f"{machine['cores']} x {machine['processor']}, Linux {machine['kernel']}, Docker "
        f"{machine['engine']['ServerVersion']}, Python {machine['python']}; load {busy['load_at_begin']:.1f} before, "
        f"{busy['load_at_end']:.1f} after, {busy['stolen']:.1%} of the CPU time stolen; {busy['seconds']:.0f} s"
    )
    for name, error in failures.items():
        print(f"{name}: NOT MEASURED: {error}")
    document = {
        "machine": machine,
        "busyness": busy,
        "options": asdict(options),
        "figures": [figure.document() for figure in figures],
        "not_measured": failures,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {file}")
    return 1 if failures else 0


def _measure(options: Options, names: Sequence[str]) -> tuple[list[Figure], dict[str, str]]:
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    _say("preparing the benchmark plugin's image")
    image = build_image()
    with load_generator() as load, contextlib.ExitStack() as stack:
        bench = Bench(options, load, image)
        stack.callback(bench.release_shared)
        for name, following in zip(names, [*names[1:], None], strict=True):
            started = time.monotonic()
            _say(f"{name}: {ROWS[name].about}")
            try:
                figures += ROWS[name].measure(bench)
            except Exception as error:  # noqa: BLE001 - the other rows can still be measured
                failures[name] = f"{type(error).__name__}: {error}"
                _say(f"{name} could not be measured: {error}")
            if following is None or ROWS[following].group != ROWS[name].group or not ROWS[name].group:
                bench.release_shared()
            _say(f"{name} took {time.monotonic() - started:.0f} s")
    return figures, failures


def _arguments() -> tuple[Options, list[str], Path]:
    rows = "\n".join(
        f"  {name:<12} {row.about}{'' if row.by_default else ' (only if named)'}" for name, row in ROWS.items()
    )
    parser = argparse.ArgumentParser(
        "make bench", description=f"rows:\n{rows}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure; by default all but the long ones")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures are written")
    defaults = Options()
    for option in fields(Options):
        default = getattr(defaults, option.name)
        parser.add_argument(
            f"--{option.name.replace('_', '-')}", type=type(default), default=default, help=_HELP[option.name]
        )
    parsed = parser.parse_args()
    if unknown := [name for name in parsed.rows if name not in ROWS]:
        parser.error(f"no row named {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    names = [name for name in ROWS if name in parsed.rows] or [name for name, row in ROWS.items() if row.by_default]
    return Options(**{option.name: getattr(parsed, option.name) for option in fields(Options)}), names, parsed.json


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
