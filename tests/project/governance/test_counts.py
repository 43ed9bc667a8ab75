"""tests/README.md says how many tests the specification requires and how many exist; both are checked."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.checkout import PROJECT, TESTS

_ROW = re.compile(r"\| (?P<suite>[^|]+) \| (?P<required>\d+) \| (?P<where>[^|]*)\| (?P<existing>\d+) \|")


@dataclass(frozen=True)
class Row:
    suite: str
    required: int
    where: tuple[str, ...]
    existing: int


def rows() -> list[Row]:
    return [
        Row(row["suite"], int(row["required"]), tuple(re.findall("`(.+?)`", row["where"])), int(row["existing"]))
        for row in _ROW.finditer((TESTS / "README.md").read_text())
    ]


def test_the_table_has_every_suite_and_its_required_number() -> None:
    """The specification's own table: nine suites, more than forty tests."""
    *suites, together = rows()
    assert [row.required for row in suites] == [3, 2, 6, 8, 6, 4, 4, 3, 4]
    assert together.required == sum(row.required for row in suites) == 40
    assert together.existing == sum(row.existing for row in suites)


@pytest.mark.slow
def test_as_many_tests_exist_as_it_says() -> None:
    """As pytest collects them: a test that cannot be imported, or is not run, does not count."""
    paths = [path for row in rows() for path in row.where]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *(f"tests/{path}" for path in paths)]
    listed = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True, timeout=200).stdout
    collected = [line.removeprefix("tests/") for line in listed.splitlines() if "::" in line]
    for row in rows()[:-1]:
        count = sum(test.startswith(path) for test in collected for path in row.where)
        assert count >= row.existing >= row.required, f"{row.suite}: {count} exist"


def test_every_package_has_its_suites_in_the_table() -> None:
    """A new package is not forgotten, and every suite that the table names exists."""
    table = (TESTS / "README.md").read_text().partition("| package | suites |")[2].partition("##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    listed = [package for packages, _ in rows for package in re.findall("`(.+?)`", packages)]
    paths = [
        path for path in (PROJECT / "orchestrator").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    packages = {path.stem for path in paths} - {
        "__init__",
        "__main__",
        "app",
        "audit_plugins",
    }  # the whole, and ways in
    assert packages == {Path(name).name for name in listed if name.startswith("orchestrator/")}
    suites = [suite for _, suites in rows for suite in re.findall("`(.+?)`", suites)]
    assert [suite for suite in suites if not (TESTS / suite).exists() and suite != "tests"] == []
