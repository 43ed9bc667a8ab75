"""tests/README.md tells how many tests the specification asks for and how many are there: it is held to that."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
_ROW = re.compile(r"\| (?P<suite>[^|]+) \| (?P<asked>\d+) \| (?P<where>[^|]*)\| (?P<there>\d+) \|")


@dataclass(frozen=True)
class Row:
    suite: str
    asked: int
    where: tuple[str, ...]
    there: int


def rows() -> list[Row]:
    return [
        Row(row["suite"], int(row["asked"]), tuple(re.findall("`(.+?)`", row["where"])), int(row["there"]))
        for row in _ROW.finditer((TESTS / "README.md").read_text())
    ]


def test_the_table_has_every_suite_and_what_is_asked_of_it() -> None:
    """The specification's own table: nine suites, more than forty tests."""
    *suites, together = rows()
    assert [row.asked for row in suites] == [3, 2, 6, 8, 6, 4, 4, 3, 4]
    assert together.asked == sum(row.asked for row in suites) == 40
    assert together.there == sum(row.there for row in suites)


@pytest.mark.slow
def test_as_many_are_there_as_it_says() -> None:
    """Collected as pytest collects them: what does not import, or is not run, does not count."""
    places = [place for row in rows() for place in row.where]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *(f"tests/{place}" for place in places)]
    told = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True, timeout=200).stdout
    collected = [line.removeprefix("tests/") for line in told.splitlines() if "::" in line]
    for row in rows()[:-1]:
        count = sum(test.startswith(place) for test in collected for place in row.where)
        assert count >= row.there >= row.asked, f"{row.suite}: {count} are there"
