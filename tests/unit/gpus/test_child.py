"""Programs that may hang or crash, run as children within a bound."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from support.waiting import eventually

from orchestrator.gpus.probe import BoundedChild, ChildResult


def python(program, *, bound=10.0):
    return BoundedChild((sys.executable, "-c", program), bound=bound)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_ended(*pids):
    """A killed process takes a moment."""

    async def ended():
        return not any(alive(int(pid)) for pid in pids)

    await eventually(ended, within=2)


async def test_the_result_has_its_output_and_exit_code():
    result = await python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)").run()
    assert result == ChildResult("ended", 3, "out\n", "err\n")
    assert result.signal is None


async def test_a_program_that_is_not_there_is_missing():
    assert (await BoundedChild(("/nonexistent/nvidia-smi",), bound=1.0).run()).outcome == "missing"


async def test_a_crash_is_named_by_its_signal():
    result = await python("import os; os.kill(os.getpid(), 11)").run()
    assert (result.exit_code, result.signal) == (-11, "SIGSEGV")


async def test_a_hang_takes_the_childs_own_children_with_it(tmp_path):
    pids = tmp_path / "pids"
    program = (
        "import os, subprocess, sys, time, signal; signal.signal(15, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '600']);"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}');"
        "time.sleep(600)"
    )
    started_at = time.monotonic()
    assert (await python(program, bound=2.0).run()).outcome == "hung"
    assert time.monotonic() - started_at < 3.0
    await until_ended(*pids.read_text().split())


async def test_a_grandchild_that_keeps_the_output_open_is_no_way_round_the_bound(tmp_path):
    pid = tmp_path / "pid"
    program = (
        "import subprocess; child = subprocess.Popen(['sleep', '600']);"
        f"open({str(pid)!r}, 'w').write(str(child.pid)); print('done')"
    )
    assert (await python(program, bound=2.0).run()).outcome == "hung"
    await until_ended(pid.read_text())


async def test_a_flood_of_output_is_cut_and_does_not_block_it():
    result = await python("import sys; sys.stdout.write('x' * 30_000_000)").run()
    assert result.outcome == "ended"
    assert 4 * 1024**2 <= len(result.stdout) < 5 * 1024**2


async def test_a_cancelled_call_kills_the_child(tmp_path):
    pid = tmp_path / "pid"
    program = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    call = asyncio.create_task(python(program).run())
    while not pid.exists() or not pid.read_text():
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_ended(pid.read_text())


@pytest.mark.slow
async def test_while_a_child_cannot_be_killed_calls_return_at_once_and_start_no_second_one(tmp_path, monkeypatch):
    """A child that sleeps in the kernel survives SIGKILL; here the signal is suppressed, which looks the same."""
    started = tmp_path / "started"
    program = f"import time; open({str(started)!r}, 'a').write('x'); time.sleep(600)"
    child = python(program, bound=1.5)
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", lambda pid, signal: None)
        assert (await child.run()).outcome == "hung"
    started_at = time.monotonic()
    assert (await child.run()).outcome == "hung"
    assert time.monotonic() - started_at < 1  # its bound is 1.5
    assert started.read_text() == "x"
    stuck = child._killed
    stuck.kill()
    await stuck.wait()
    assert (await child.run()).outcome == "hung"  # run again, not answered from memory
    assert started.read_text() == "xx"
