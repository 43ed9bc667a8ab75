"""Tests in other processes count as the session's own, and another process that breaks off is no success."""

import json
import os
from pathlib import Path

import pytest
from support.checkout import TESTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one processor there is one process"),
]

FILE = """
    import os
    import pytest

    @pytest.mark.engine
    def test_with_engine(reliability, record_property):
        record_property("pid", os.getpid())
        reliability.count("with", right=1, of=1)

    @pytest.mark.engine
    @pytest.mark.own_engine
    def test_with_engine_of_its_own(record_property):
        record_property("pid", os.getpid())

    @pytest.mark.skip(reason="as ever")
    def test_skipped(): pass

    def test_without(reliability, record_property):
        record_property("pid", os.getpid())
        reliability.count("without", right=2, of=2)
"""
INI = """
    [pytest]
    markers =
        engine: needs one
        own_engine: starts one
    addopts = -p support.reliability -p support.side_by_side -p no:cacheprovider
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs tests of such a file side by side."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(INI)

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("--side-by-side", "-ra", *arguments, timeout=60)

    return run


def test_three_processes_make_one_session(run, tmp_path: Path) -> None:
    """One summary, one table of reliability, one file of results."""
    figures, results = tmp_path / "figures.json", tmp_path / "results.xml"
    ran = run(FILE, f"--reliability-json={figures}", f"--junit-xml={results}")
    ran.assert_outcomes(passed=3, skipped=1)
    assert ran.ret == pytest.ExitCode.OK
    ran.stdout.fnmatch_lines(["SKIPPED [[]1[]] *: as ever"])
    assert sorted(row["got"] for row in json.loads(figures.read_text())) == ["1 of 1", "2 of 2"]
    pids = {line.partition('value="')[2].partition('"')[0] for line in results.read_text().split("<property ")[1:]}
    assert len(pids) == 3


@pytest.mark.parametrize("name", ["with_engine", "without"])
def test_a_failure_in_either_fails_the_session(run, name: str) -> None:
    """It is shown as any other."""
    signature = f"test_{name}(reliability, record_property):"
    ran = run(FILE.replace(signature, f"{signature}\n        assert 'what was' == 'expected'"))
    ran.assert_outcomes(passed=2, failed=1, skipped=1)
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["E *AssertionError: assert 'what was' == 'expected'", f"FAILED *::test_{name} - *"])


def test_another_process_that_breaks_off_is_no_success(run) -> None:
    """What it said last is shown."""
    ran = run(FILE + "        os._exit(0)\n\n    def test_never(): pass")
    assert ran.ret == pytest.ExitCode.INTERNAL_ERROR
    ran.stdout.fnmatch_lines(["*the tests of kind no_engine ended with 0 before they did*", "collected 5 items"])


def test_the_first_failure_ends_all_where_that_is_wanted(run) -> None:
    ran = run(FILE + "        raise ValueError\n\n    def test_never(): pass", "-x")
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    assert ran.parseoutcomes()["failed"] == 1
    assert "test_never" not in ran.stdout.str()


@pytest.mark.parametrize(("chosen", "skipped"), [("engine and not own_engine", 0), ("not engine", 1)])
def test_tests_of_one_kind_run_in_one_process(run, chosen: str, skipped: int) -> None:
    """As they do without the option."""
    ran = run(FILE, "-m", chosen)
    ran.assert_outcomes(passed=1, skipped=skipped, deselected=3 - skipped)
    assert ran.ret == pytest.ExitCode.OK
