"""`make bench-peers ARGS="mosec kserve --rounds 3"`: measure these beside ours, print one table, write one JSON."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import facts
from benchmarks.load import load_generator
from benchmarks.peers import ends, page, speed, starts, table
from benchmarks.peers.adapters import PEERS
from benchmarks.peers.contestant import Contestant
from benchmarks.peers.environments import installed
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer
from benchmarks.peers.samples import Samples

PARTS = ("speed", "starts", "ends")


@dataclass(frozen=True)
class Options:
    """`seconds`: length of a load; `rounds`, `starts`: rounds of loads, and of starts."""

    peers: Sequence[str]
    parts: Sequence[str]
    rounds: int
    seconds: float
    starts: int
    before: str


def main() -> int:
    """Return the exit code: 1 if nothing was measured, 130 if interrupted. A peer that cannot take part says why."""
    options, file, to_readme = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # so that what runs is ended
    busyness, machine, samples = facts.Busyness(), facts.machine(), Samples(say=_say)
    seen: dict[str, dict[str, ends.End]] = {}
    packages: dict[str, list[str]] = {}
    interrupted = False
    with ExitStack() as stack:
        contestants = _contestants(options, stack)
        try:
            _measure(contestants, options, samples, seen, packages)
        except KeyboardInterrupt:
            interrupted = True
            _say("interrupted; what was measured follows")
    text = table.markdown(samples, contestants, seen)
    busy = busyness.report()
    print(f"\n{text}")
    document = {
        "machine": machine,
        "busyness": busy,
        "options": asdict(options),
        "samples": samples.document(),
        "medians": {one.name: {key: samples.median(one.name, key) for key in samples.rounds} for one in contestants},
        "targets": [figure.document() for figure in table.targets(samples)],
        "ends": {name: {kind: end.document() for kind, end in found.items()} for name, found in seen.items()},
        "packages": packages,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {file}")
    if interrupted:
        return 130
    if to_readme:
        page.write(page.dated(text, machine, busy, asdict(options)))
        print(f"and into {page.README.name}")
    return 0 if any(samples.rounds.values()) or seen else 1


def _contestants(options: Options, stack: ExitStack) -> list[Contestant]:
    """Ours first."""
    ours: list[Contestant] = [Ours(stack)]
    before: list[Contestant] = [Ours(stack, options.before)] if options.before else []
    return [*ours, *before, *(PEERS[name]() for name in options.peers)]


def _measure(
    contestants: Sequence[Contestant],
    options: Options,
    samples: Samples,
    seen: dict[str, dict[str, ends.End]],
    packages: dict[str, list[str]],
) -> None:
    """Fill `samples`, what was `seen` at ends, and the `packages` of each peer's environment."""
    ready: list[Contestant] = []
    for contestant in contestants:
        _say(f"{contestant.name}: installing or building what is missing")
        with samples.noting(contestant.name):
            contestant.prepare()
            ready.append(contestant)
            if isinstance(contestant, Peer):
                packages[contestant.name] = installed(contestant.python())
    if "speed" in options.parts:
        with load_generator() as generator:
            speed.measure(ready, generator, samples, rounds=options.rounds, seconds=options.seconds, say=_say)
    if "starts" in options.parts:
        starts.measure(ready, samples, rounds=options.starts, say=_say)
    if "ends" in options.parts:
        ends.measure(ready, samples, seen, _say)


def _arguments() -> tuple[Options, Path, bool]:
    listed = "\n".join(f"  {name:<10} {peer.title}: {peer.isolation}" for name, peer in PEERS.items())
    parser = argparse.ArgumentParser(
        "make bench-peers", description=f"peers:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="*", metavar="PEER", help="peers to measure beside ours; by default all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="by default all")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of loads, in which everything runs once; 7")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a load; 1")
    parser.add_argument("--starts", type=int, default=3, help="rounds of starts; 3")
    parser.add_argument("--before", default="", metavar="COMMIT", help="also measure that commit of this project")
    parser.add_argument(
        "--json", type=Path, default=Path("build/bench-peers.json"), help="where the figures are written"
    )
    parser.add_argument("--readme", action="store_true", help="put the tables, dated, into the benchmarks' page")
    parsed = parser.parse_args()
    if unknown := [name for name in parsed.peers if name not in PEERS]:
        parser.error(f"no peer named {', '.join(unknown)}; the peers are {', '.join(PEERS)}")
    peers = [name for name in PEERS if name in parsed.peers] or list(PEERS)
    options = Options(peers, parsed.parts, parsed.rounds, parsed.seconds, parsed.starts, parsed.before)
    return options, parsed.json, parsed.readme


def _say(text: str) -> None:
    print(f"bench-peers: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
