"""Runs that outlive their connection, and what the status says of those that execute."""

import json
import time
from pathlib import Path

import pytest
from unit.plugin_runtime.run_calls import SOURCE, Caller, about, call_and_hang_up, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE).ready()


# What the status says


def test_the_status_lists_what_executes_and_since_when(launch):
    runtime = launch(SOURCE).ready()
    before = runtime.status()
    assert (before["runs"], before["runs_begun"]) == ([], 0)
    caller = Caller(runtime, "one", "sleeps", seconds=2)
    time.sleep(0.2)
    (run,) = runtime.status()["runs"]
    assert (run["run_id"], run["tool"]) == ("one", "sleeps")
    assert 0.15 < run["seconds"] < 2
    caller.ended()
    after = runtime.status()
    assert (after["runs"], after["runs_begun"]) == ([], 1)
    assert after["ready_seconds"] > before["ready_seconds"] >= 0
    assert after["ready_seconds"] <= after["uptime_seconds"]


def test_a_run_whose_caller_has_disconnected_is_still_listed(runtime):
    call_and_hang_up(runtime, "left", "sleeps", retain=False, seconds=1.5)
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["left"]
    wait_for(lambda: runtime.status()["runs"] == [])


def test_the_run_of_a_worker_that_holds_the_gil_is_listed(launch):
    runtime = launch(SOURCE).ready()
    call_and_hang_up(runtime, "stuck", "holds_the_gil")
    time.sleep(0.05)
    begin = time.perf_counter()
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["stuck"]
    assert time.perf_counter() - begin < 1  # not until the worker answers, which it never does
    runtime.process.kill()


def test_before_it_is_ready_the_time_since_is_null(launch):
    runtime = launch("class Plugin: pass")
    status = runtime.settled()
    assert (status["phase"], status["ready_seconds"], status["runs"]) == ("failed", None, [])


# Retained answers


def test_a_retained_run_goes_on_without_its_caller(runtime):
    call_and_hang_up(runtime, "retained", "sleeps", seconds=0.2, size=3)
    answer = about(runtime, "GET", "retained")
    assert (answer.status_code, answer.json()["result"]) == (200, "xxx")
    assert answer.json()["execution_time_ms"] >= 200


def test_a_retained_answer_is_byte_for_byte_the_one_that_was_sent(runtime):
    sent = Caller(runtime, "same", "sleeps", retain=True, seconds=0.1, size=10).ended()
    for _ in range(2):
        stored = about(runtime, "GET", "same")
        assert (stored.status_code, stored.content) == (sent.status_code, sent.content)
        assert stored.headers == sent.headers


def test_a_large_retained_answer_is_in_no_ones_memory(runtime):
    size = 4 * 1024 * 1024
    call_and_hang_up(runtime, "large", "sleeps", seconds=0.5, size=size)
    assert about(runtime, "GET", "large").json()["result"] == "x" * size
    worker = runtime.status()["worker"]["pid"]
    scratch = str(runtime.scratch)

    def in_scratch():
        targets = [str(link.readlink()) for link in Path(f"/proc/{worker}/fd").iterdir() if link.is_symlink()]
        return [target for target in targets if target.startswith(scratch)]

    assert len(in_scratch()) == 1
    about(runtime, "DELETE", "large")
    wait_for(lambda: in_scratch() == [])


def test_what_a_retained_run_raised_is_retained(runtime):
    call_and_hang_up(runtime, "raised", "raises", seconds=0.1)
    answer = about(runtime, "GET", "raised")
    assert (answer.status_code, answer.json()["kind"]) == (500, "exception")
    assert "division by zero" in answer.json()["traceback"]


def test_a_retained_generator_becomes_the_list_of_its_items(runtime):
    call_and_hang_up(runtime, "list", "counts", n=4)
    answer = about(runtime, "GET", "list").json()
    assert answer["result"] == [[number, ""] for number in range(4)]
    assert answer["progress"] == {"fraction": 0.75, "message": "3 of 4"}
    assert answer["execution_time_ms"] > 100


def test_a_retained_generator_without_items_is_an_empty_list(runtime):
    with runtime.new_client("tools") as client:
        client.post("/tools/counts", json={"n": 0}, headers={"X-Run-Id": "empty", "X-Run-Keep": "1"})
    assert about(runtime, "GET", "empty").json()["result"] == []


def test_items_over_the_limit_end_a_retained_run_that_nobody_reads(launch):
    runtime = launch(SOURCE, max_result="1000").ready()
    call_and_hang_up(runtime, "much", "counts", n=100, size=300)
    answer = about(runtime, "GET", "much")
    assert (answer.status_code, answer.json()["kind"]) == (500, "invalid_output")
    assert "limit of 1000 bytes" in answer.json()["error"]
    assert "counts" in runtime.result("which_closed")


def test_a_retained_stream_reaches_its_reader_even_when_it_is_too_large_to_retain(launch):
    runtime = launch(SOURCE, max_result="1000").ready()
    answer = Caller(runtime, "read", "counts", retain=True, n=6, size=300).ended()
    end = json.loads(answer.text.splitlines()[-1])
    assert (end["ok"], end["items"]) == (True, 6)
    assert about(runtime, "GET", "read").json()["kind"] == "invalid_output"


def test_the_answer_of_a_run_that_is_not_retained_is_refused(runtime):
    caller = Caller(runtime, "plain", "sleeps", seconds=1)
    begin = time.monotonic()
    answer = about(runtime, "GET", "plain")
    assert time.monotonic() - begin > 0.1
    assert (answer.status_code, answer.json()["kind"]) == (410, "not_kept")
    assert caller.ended().json()["ok"]
    assert about(runtime, "GET", "plain").status_code == 404


def test_a_deleted_answer_is_unknown(runtime):
    Caller(runtime, "deleted", "sleeps", retain=True, seconds=0.05).ended()
    assert about(runtime, "DELETE", "deleted").json() == {"run_id": "deleted", "ended": True}
    answer = about(runtime, "GET", "deleted")
    assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_run")


def test_only_the_last_answers_are_retained(runtime):
    headers = {"X-Run-Keep": "1"}
    with runtime.new_client("tools") as client:
        for number in range(260):
            client.post("/tools/which_closed", json={}, headers={**headers, "X-Run-Id": f"many-{number}"})
    assert about(runtime, "GET", "many-0").status_code == 404
    assert about(runtime, "GET", "many-259").status_code == 200


def test_an_unknown_run_is_refused(runtime):
    for method, suffix in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", ""), ("PUT", "/cancel")]:
        answer = about(runtime, method, "nobody", suffix)
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_run")


def test_questions_about_runs_leave_the_connection_open(runtime):
    with runtime.new_client("tools") as client:
        client.post("/tools/which_closed", json={}, headers={"X-Run-Id": "open", "X-Run-Keep": "1"})
        for _ in range(3):
            assert client.get("/runs/open").status_code == 200
