"""What worker and supervisor share of the runs that execute now."""

import os
import signal
import threading
import time

import pytest
from plugin_runtime.shared.run_table import SLOTS, SharedRunTable


def test_runs_are_listed_while_they_execute_and_counted_for_ever():
    runs = SharedRunTable()
    first, second = runs.add("a", "read"), runs.add("b", "write")
    assert [(run["run_id"], run["tool"]) for run in runs.executing()] == [("a", "read"), ("b", "write")]
    runs.remove(first)
    third = runs.add("c", "read")
    assert third == first
    assert [run["run_id"] for run in runs.executing()] == ["b", "c"]
    runs.remove(second)
    runs.remove(third)
    assert (runs.executing(), runs.started) == ([], 3)


def test_names_are_cut_to_their_field_and_stay_readable():
    runs = SharedRunTable()
    runs.add("r" * 100, "ü" * 100)
    (run,) = runs.executing()
    assert run["run_id"] == "r" * 64
    assert run["tool"] == "ü" * 60


def test_runs_beyond_the_slots_are_counted():
    runs = SharedRunTable()
    slots = [runs.add(str(number), "read") for number in range(SLOTS + 3)]
    assert (len(runs.executing()), runs.started) == (SLOTS, SLOTS + 3)
    for slot in slots:
        runs.remove(slot)
    assert runs.executing() == []


@pytest.mark.slow
def test_another_process_reads_whole_entries_while_threads_write():
    runs = SharedRunTable()
    pid = os.fork()
    if pid == 0:

        def work(name: str) -> None:
            while True:
                runs.remove(runs.add(name * 60, name * 100))

        for name in "abcd":
            threading.Thread(target=work, args=(name,), daemon=True).start()
        time.sleep(30)
        os._exit(0)
    try:
        deadline = time.monotonic() + 1.5
        seen = set()
        while time.monotonic() < deadline:
            for run in runs.executing():
                assert len(set(run["run_id"] + run["tool"])) == 1, run
                assert (len(run["run_id"]), len(run["tool"])) == (60, 100)
                seen.add(run["run_id"][0])
        assert len(seen) > 1
        assert runs.started > 1000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
