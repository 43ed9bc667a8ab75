"""The dated copy of the tables on the benchmarks' page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- peers: written by make bench-peers ARGS=--readme -->\n"
END: Final = "<!-- end of peers -->\n"


def dated(text: str, machine: Mapping[str, Any], busy: Mapping[str, float], options: Mapping[str, Any]) -> str:
    """The tables under when, on what and how they were measured."""
    before = f", beside commit {options['before']}" if options["before"] else ""
    return (
        f"{machine['time'][:10]}, {machine['cores']} x {machine['processor']}, Linux {machine['kernel']}, "
        f"Docker {machine['engine']['ServerVersion']}, Python {machine['python']}; "
        f"load {busy['load_at_begin']:.1f} before and {busy['load_at_end']:.1f} after, "
        f"{busy['stolen']:.1%} of the CPU time stolen; {options['rounds']} rounds of {options['seconds']:g} s, "
        f"{options['starts']} of starts{before}; {busy['seconds']:.0f} s.\n\n{text}"
    )


def write(text: str, page: Path = README) -> None:
    """Put it between the page's marks. Raises ValueError if the page has none."""
    content = page.read_text()
    if BEGIN not in content or END not in content:
        raise ValueError(f"{page} has no place for the tables: the lines {BEGIN.strip()!r} and {END.strip()!r}")
    before, _, rest = content.partition(BEGIN)
    page.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
