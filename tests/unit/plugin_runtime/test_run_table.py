"""What worker and supervisor share of the runs that execute now."""

import os
import signal
import threading
import time

import pytest
from plugin_runtime.shared.run_table import MESSAGE_BYTES, SLOTS, SharedRunTable


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


def test_a_run_has_its_last_progress():
    runs = SharedRunTable()
    first, second = runs.add("a", "read"), runs.add("b", "read")
    runs.note_progress(first, 0.25, "page 1 of 4")
    runs.note_progress(first, 0.5, "page 2")
    progress = {run["run_id"]: run["progress"] for run in runs.executing()}
    assert progress == {"a": {"fraction": 0.5, "message": "page 2"}, "b": None}
    runs.remove(first)
    runs.add("c", "read")  # in the place of the first
    assert [run["progress"] for run in runs.executing()] == [None, None]
    runs.note_progress(second, 1.0, "ü" * MESSAGE_BYTES)
    assert runs.executing()[0]["progress"] == {"fraction": 1.0, "message": "ü" * (MESSAGE_BYTES // 2)}
    runs.note_progress(None, 1.0, "of a run beyond the slots")


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
                slot = runs.add(name * 60, name * 100)
                for number in range(3):
                    runs.note_progress(slot, number / 4, f"{number}" * 150)
                runs.remove(slot)

        for name in "abcd":
            threading.Thread(target=work, args=(name,), daemon=True).start()
        time.sleep(30)
        os._exit(0)
    try:
        deadline = time.monotonic() + 1.5
        seen, progress = set(), 0
        while time.monotonic() < deadline:
            for run in runs.executing():
                assert len(set(run["run_id"] + run["tool"])) == 1, run
                assert (len(run["run_id"]), len(run["tool"])) == (60, 100)
                if run["progress"] is not None:
                    assert run["progress"]["message"] == f"{run['progress']['fraction'] * 4:.0f}" * 150
                    progress += 1
                seen.add(run["run_id"][0])
        assert len(seen) > 1
        assert progress > 0
        assert runs.started > 1000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
