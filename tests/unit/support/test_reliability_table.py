"""The table of reliability figures: a missed target is shown, and no better value hides a worse one."""

import json
from pathlib import Path

import pytest
from support.reliability import ReliabilityTable, lines

pytest_plugins = ["pytester"]


def test_a_missed_target_fails_its_test_and_stays_in_the_table() -> None:
    """Even after a better trial of the same figure."""
    table = ReliabilityTable()
    with pytest.raises(AssertionError, match="19 of 20"):
        table.count("verdicts", right=19, of=20)
    table.count("verdicts", right=20, of=20)
    assert (table.rows["verdicts"].got, table.rows["verdicts"].met) == ("39 of 40", False)
    with pytest.raises(AssertionError, match="at most 100"):
        table.at_most("slowest", 101.0, limit=100, unit="ms")
    table.at_most("slowest", 3.0, limit=100, unit="ms")
    table.against("adopted", 4.0, target=3, unit="s")  # is reported, and fails no test
    assert [line for line, _ in lines(list(table.rows.values()))] == [
        "verdicts  39 of 40  all  MISSED",
        "slowest     101 ms  ≤ 100 ms  MISSED",
        "adopted        4 s  ≤ 3 s  MISSED",
    ]


def test_figures_of_another_process_are_added() -> None:
    """Counts are summed, the worst value is retained, and what was missed in either is missed."""
    tables = [ReliabilityTable(), ReliabilityTable()]
    for table, slowest in zip(tables, (3.0, 2.0), strict=True):
        table.count("trials", right=2, of=2)
        table.at_most("slowest", slowest, limit=100, unit="ms")
        table.against(f"adopted by {slowest:g}", slowest, target=3, unit="s")
    with pytest.raises(AssertionError):
        tables[1].count("trials", right=0, of=1)
    tables[0].add(tables[1])
    assert [line for line, _ in lines(list(tables[0].rows.values()))] == [
        "trials        4 of 5  all  MISSED",
        "slowest         3 ms  ≤ 100 ms  met",
        "adopted by 3     3 s  ≤ 3 s  met",
        "adopted by 2     2 s  ≤ 3 s  met",
    ]


def test_a_session_ends_with_the_table(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """Printed, and written to the option's file."""
    pytester.makepyfile("""
        def test_x(reliability):
            reliability.count("trials", right=2, of=2)
            reliability.at_most("adoption", 1.5, unit="s")
    """)
    file = tmp_path / "figures.json"
    result = pytester.runpytest_inprocess("-p", "support.reliability", "-p", "no:asyncio", f"--reliability-json={file}")
    result.stdout.fnmatch_lines(["*= reliability =*", "trials * 2 of 2  all  met", "adoption * 1.5 s"])
    assert [row["figure"] for row in json.loads(file.read_text())] == ["trials", "adoption"]
