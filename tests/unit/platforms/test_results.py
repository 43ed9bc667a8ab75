"""The table of engines says what was found, and nothing else."""

from datetime import date

import pytest
from platforms import results
from platforms.columns import COLUMNS, Cell, read_report
from platforms.rows import ROWS

CELL = Cell("2026-11-27 23:30", "0123456789", 12)

REPORT = """<testsuites><testsuite>
<testcase name="one"/><testcase name="two"><skipped message="no disk"/></testcase>
<testcase name="three"><failure message="assert 1 == 2&#10;more">text</failure></testcase>
<testcase name="four"><error message="no engine">text</error></testcase>
<testcase name="five"><error message="no engine">text</error></testcase>
</testsuite></testsuites>"""


def test_a_cell_is_what_pytest_counted(tmp_path):
    """An error of a fixture is a failure, and each that failed is named with the first line of its message."""
    (tmp_path / "report.xml").write_text(REPORT)
    cell = read_report(tmp_path / "report.xml", CELL, 1, 60)
    assert (cell.passed, cell.failed, cell.skipped, cell.not_run) == (1, 3, 1, "")
    assert cell.faults == ("three: assert 1 == 2", "four and 1 more: no engine")


@pytest.mark.parametrize("status", [None, 2])
def test_what_was_broken_off_is_no_result(tmp_path, status):
    """Its counts say only how far it came."""
    (tmp_path / "report.xml").write_text(REPORT)
    cell = read_report(tmp_path / "report.xml", CELL, status, 60)
    assert cell.not_run.endswith(": 1 passed, 3 failed until then")


@pytest.mark.parametrize(("status", "why"), [(None, "broken off after 60 s"), (4, "pytest ended with status 4")])
def test_without_a_report_a_cell_says_why(tmp_path, status, why):
    cell = read_report(tmp_path / "none.xml", CELL, status, 60)
    assert (cell.passed, cell.failed, cell.not_run) == (0, 0, why)


def test_a_cell_replaces_the_one_before_and_no_other(tmp_path):
    file = tmp_path / "results.json"
    results.record("docker", {"version": "1"}, "contract", Cell("2026-01-01 00:00", "a", passed=1), file)
    results.record("docker", {"version": "2"}, "escape", Cell("2026-01-02 00:00", "b", failed=1), file)
    results.record("docker", {}, "contract", Cell("2026-01-03 00:00", "c", not_run="no engine"), file)
    entry = results.load(file)["docker"]
    assert entry["engine"] == {"version": "2"}
    assert entry["cells"]["contract"]["not_run"] == "no engine"
    assert entry["cells"]["escape"]["failed"] == 1


def test_the_table_has_a_line_for_each_row_and_lists_what_failed():
    """A row of which nothing is known says so; a bar in a message does not end its cell."""
    cells = {"contract": {"date": "2026-11-27 23:30", "seconds": 9, "passed": 3, "failed": 1, "skipped": 0}}
    cells["contract"]["faults"] = ["test_x: a | b <c>"]
    cells["up"] = {"date": "2026-11-27 23:40", "not_run": "a | b"}
    text = results.table({"docker": {"engine": {"version": "20.10", "cgroup": "v1, cgroupfs"}, "cells": cells}})
    line = next(line for line in text.splitlines() if line.startswith("| `docker` |"))
    assert "| 20.10 | v1, cgroupfs |" in line
    assert "| 3 passed, 1 failed (2026-11-27, 9 s) |" in line
    assert "| not run: a \\| b (2026-11-27) |" in line
    assert "- `docker`, engine contract: `test_x`: a | b &lt;c>" in text
    assert sum(line.startswith("| `") for line in text.splitlines()) == len(ROWS)


def test_the_page_has_the_table_of_the_results():
    """Whoever changes one by hand learns of it: `make test-platforms ARGS=--table` writes it."""
    assert results.table(results.load()) in results.README.read_text()


def test_no_cell_is_a_claim():
    """Every result has a date and a count, or a reason why there is none; an empty cell says that it was not run."""
    known = results.load()
    assert known.keys() <= ROWS.keys()
    for name, entry in known.items():
        assert entry["cells"].keys() <= COLUMNS.keys()
        for column, cell in entry["cells"].items():
            assert date.fromisoformat(cell["date"][:10])
            assert cell.get("not_run") or cell["passed"] + cell["failed"] + cell["skipped"] > 0, (name, column)


def test_what_a_row_is_not_for_is_a_column():
    assert {column for row in ROWS.values() for column in row.not_for} <= COLUMNS.keys()
