"""Tests in other processes count as the session's own, and another process that breaks off is no success."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import TESTS
from support.side_by_side import end, end_status

pytest_plugins = ["pytester"]
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


OTHERS = """
    import sys
    import pytest

    IN_OTHER = any(argument.startswith("--part") for argument in sys.argv)

    @pytest.mark.engine
    def test_with_engine(): pass

    NUMBER = {there} if IN_OTHER else {here}
    TestWithout = type("TestWithout", (), {{f"test_{{number}}": lambda self: None for number in range(NUMBER)}})
"""


@pytest.mark.parametrize(("here", "there", "said"), [(5, 1, "ran 1 of 5"), (1, 0, "ended with*before they did")])
def test_another_process_that_runs_other_tests_is_no_success(run, here: int, there: int, said: str) -> None:
    """Fewer than the first one counts on, or none: a failure among those would go unseen."""
    ran = run(OTHERS.format(here=here, there=there))
    assert ran.ret == pytest.ExitCode.INTERNAL_ERROR
    ran.stdout.fnmatch_lines([f"*the tests of kind no_engine {said}*"])


def test_a_process_that_ignores_the_interrupt_is_killed() -> None:
    """With what it has started; and is waited for no longer than was said."""
    script = "trap '' INT; sleep 60 & echo $!; wait; wait"
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        end(process, within=0.2)
        assert process.returncode == -signal.SIGKILL
        assert process.stdout.read() == b"", "its child has ended too, which had the pipe"
        assert not Path(f"/proc/{child}/exe").exists()


def test_a_process_that_has_been_asked_ends_in_its_own_way() -> None:
    code = "import time\ntry:\n print(flush=True); time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(7)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert end_status(process, within=0.01) is None
        end(process, within=20)
        assert process.returncode == 7


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
