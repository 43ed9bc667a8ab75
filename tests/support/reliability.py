"""The table of reliability figures: any test adds to it, and the test session ends with it.

def test_x(reliability):
    reliability.count("verdicts: segfault", right=20, of=20)
    reliability.at_most("health routes: slowest answer", 12.3, limit=100, unit="ms")

Each fails the test if its target is missed. Several tests may add to one row: counts are summed, and of measured values
the worst is retained.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter


@dataclass(frozen=True)
class Row:
    """One figure and its target."""

    figure: str
    got: str
    target: str
    met: bool
    value: float
    of: int = 0


class ReliabilityTable:
    """The figures of one test session, in the order in which they were added."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def count(self, figure: str, *, right: int, of: int, wrong: object = None) -> None:
        """`right` of `of` trials had the right outcome; all must. `wrong` is for the failure's message."""
        self._count(figure, right, of)
        assert right == of, f"{figure}: {right} of {of}; wrong: {wrong}"

    def at_most(self, figure: str, value: float, *, limit: float = math.inf, unit: str = "") -> None:
        """A measured value that must not exceed the limit; without one it is only reported."""
        self._worst(figure, value, limit, unit)
        assert value <= limit, f"{figure}: {value:g} {unit}, at most {limit:g} {unit}"

    def against(self, figure: str, value: float, *, target: float, unit: str = "") -> None:
        """A measured value, reported beside its target. It fails no test, since it depends on the machine."""
        self._worst(figure, value, target, unit)

    def add(self, other: "ReliabilityTable") -> None:
        """The figures of another process of this session."""
        for row in other.rows.values():
            before = self.rows.get(row.figure)
            if before is None:
                self.rows[row.figure] = row
            elif row.of:
                self._count(row.figure, int(row.value), row.of)
            else:
                self.rows[row.figure] = replace(
                    max(before, row, key=lambda each: each.value), met=before.met and row.met
                )

    def _count(self, figure: str, right: int, of: int) -> None:
        before = self.rows.get(figure)
        right, of = right + int(before.value if before else 0), of + (before.of if before else 0)
        self.rows[figure] = Row(figure, f"{right} of {of}", "all", met=right == of, value=right, of=of)

    def _worst(self, figure: str, value: float, limit: float, unit: str) -> None:
        before = self.rows.get(figure)
        value = max(value, before.value) if before else value
        got, target = f"{value:.3g} {unit}".strip(), f"≤ {limit:g} {unit}".strip() if limit < math.inf else ""
        self.rows[figure] = Row(figure, got, target, met=value <= limit, value=value)


TABLE = pytest.StashKey[ReliabilityTable]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-json", type=Path, help="write the reliability figures to this file")
    parser.addoption("--sigkills", type=int, default=10, help="how often the orchestrator is killed under busy plugins")
    parser.addoption("--sigterms", type=int, default=3, help="how often the orchestrator is stopped under load")
    parser.addoption("--mcp-seconds", type=float, default=10, help="how long fifty MCP clients list and call")
    parser.addoption("--pull-kills", type=int, default=20, help="how often a pull of a model is killed")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = ReliabilityTable()


@pytest.fixture(scope="session")
def reliability(pytestconfig: pytest.Config) -> ReliabilityTable:
    """The session's table of reliability figures."""
    return pytestconfig.stash[TABLE]


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    rows = list(config.stash[TABLE].rows.values())
    if rows:
        terminalreporter.section("reliability")
        for line, met in lines(rows):
            terminalreporter.line(line, **({} if met else {"red": True}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--reliability-json")
    if path is not None:
        rows = [asdict(row) for row in session.config.stash[TABLE].rows.values()]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def lines(rows: list[Row]) -> Iterator[tuple[str, bool]]:
    """The table's lines, each with whether its target was met."""
    of: Callable[[Callable[[Row], Any]], int] = lambda part: max(len(part(row)) for row in rows)  # noqa: E731
    figure, got = of(lambda row: row.figure), of(lambda row: row.got)
    for row in rows:
        verdict = "" if not row.target else "  met" if row.met else "  MISSED"
        yield f"{row.figure:<{figure}}  {row.got:>{got}}  {row.target}{verdict}".rstrip(), row.met
