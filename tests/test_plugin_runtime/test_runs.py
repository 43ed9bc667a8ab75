"""Runs that outlive their connection, runs that are cancelled, and what the status says of those that execute."""

import contextlib
import json
import threading
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

SOURCE = """
    import asyncio, re, threading, time
    from concurrent.futures import ThreadPoolExecutor
    from plugin_runtime import InvalidInput, Progress, cancelled, tool

    class Plugin:
        closed = ""

        def validate(self): pass

        @tool
        def sleeps(self, seconds: float, size: int = 0) -> object:
            time.sleep(seconds)
            return "x" * size

        @tool
        def raises(self, seconds: float) -> None:
            time.sleep(seconds)
            raise ZeroDivisionError("division by zero")

        @tool
        def counts(self, n: int, seconds: float = 0.05, size: int = 0) -> object:
            try:
                for number in range(n):
                    yield Progress(number / n, f"{number} of {n}")
                    yield [number, "x" * size]
                    time.sleep(seconds)
            finally:
                self.closed += "counts "

        @tool
        async def acounts(self, n: int) -> object:
            try:
                for number in range(n):
                    yield number
                    await asyncio.sleep(60)
            finally:
                self.closed += "acounts "

        @tool
        async def waits(self, seconds: float) -> str:
            try:
                await asyncio.sleep(seconds)
            finally:
                self.closed += "waits "
            return "waited"

        @tool
        async def will_not(self) -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
            return "done all the same"

        @tool
        def looks(self) -> str:
            while not cancelled():
                time.sleep(0.01)
            return "a part of it"

        @tool
        def looks_in_a_thread(self) -> str:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(self.looks).result()

        @tool
        def gives_up(self) -> str:
            while not cancelled():
                time.sleep(0.01)
            raise InterruptedError("I was asked to stop")

        @tool
        def never_looks(self, seconds: float) -> str:
            time.sleep(seconds)
            return "ready"

        @tool
        def holds_the_gil(self) -> None:
            re.match(r"(a+)+$", "a" * 60 + "b")

        @tool
        def which_closed(self) -> str:
            return self.closed
"""


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE).ready()


class Caller:
    """One call of a tool in a thread of its own."""

    def __init__(self, runtime, run_id, tool, *, keep=False, **arguments):
        self.runtime, self.run_id, self.answer = runtime, run_id, None
        headers = {"X-Run-Id": run_id, **({"X-Run-Keep": "1"} if keep else {})}

        def call():
            with runtime.new_client("tools") as client, contextlib.suppress(httpx.HTTPError):
                self.answer = client.post(f"/tools/{tool}", json=arguments, headers=headers)

        self.thread = threading.Thread(target=call)
        self.thread.start()
        wait_for(lambda: self.answer is not None or executes(runtime, run_id))

    def ended(self):
        self.thread.join(10)
        assert self.answer is not None
        return self.answer


def executes(runtime, run_id):
    return run_id in [run["run_id"] for run in runtime.status()["runs"]]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def call_and_hang_up(runtime, run_id, tool, *, keep=True, **arguments):
    """The caller is gone as soon as the tool executes."""
    body = json.dumps(arguments).encode()
    head = f"POST /tools/{tool} HTTP/1.1\r\nContent-Type: application/json\r\nX-Run-Id: {run_id}\r\n"
    head += f"X-Run-Keep: {int(keep)}\r\nContent-Length: {len(body)}\r\n\r\n"
    with runtime.connect("tools") as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: executes(runtime, run_id))


def about(runtime, method, run_id, suffix=""):
    with runtime.new_client("tools") as client:
        return client.request(method, f"/runs/{run_id}{suffix}")


def cancel(runtime, run_id):
    return about(runtime, "POST", run_id, "/cancel")


# What the status says


def test_the_status_tells_what_executes_and_since_when(launch):
    runtime = launch(SOURCE).ready()
    before = runtime.status()
    assert (before["runs"], before["runs_begun"]) == ([], 0)
    caller = Caller(runtime, "one", "sleeps", seconds=0.6)
    time.sleep(0.2)
    (run,) = runtime.status()["runs"]
    assert (run["run_id"], run["tool"]) == ("one", "sleeps")
    assert 0.15 < run["seconds"] < 0.6
    caller.ended()
    after = runtime.status()
    assert (after["runs"], after["runs_begun"]) == ([], 1)
    assert after["ready_seconds"] > before["ready_seconds"] >= 0
    assert after["ready_seconds"] <= after["uptime_seconds"]


def test_a_run_whose_caller_is_gone_is_still_listed(runtime):
    call_and_hang_up(runtime, "left", "sleeps", keep=False, seconds=0.3)
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["left"]
    wait_for(lambda: runtime.status()["runs"] == [])


def test_a_worker_that_holds_the_gil_does_not_keep_its_run_secret(launch):
    runtime = launch(SOURCE).ready()
    call_and_hang_up(runtime, "stuck", "holds_the_gil")
    time.sleep(0.05)
    begin = time.perf_counter()
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["stuck"]
    assert time.perf_counter() - begin < 1  # not until the worker answers, which it never does
    runtime.process.kill()


def test_before_it_is_ready_there_is_no_time_since(launch):
    runtime = launch("class Plugin: pass")
    status = runtime.settled()
    assert (status["phase"], status["ready_seconds"], status["runs"]) == ("failed", None, [])


# Kept answers


def test_a_kept_run_goes_on_without_its_caller(runtime):
    call_and_hang_up(runtime, "kept", "sleeps", seconds=0.2, size=3)
    answer = about(runtime, "GET", "kept")
    assert (answer.status_code, answer.json()["result"]) == (200, "xxx")
    assert answer.json()["execution_time_ms"] >= 200


def test_a_kept_answer_is_byte_for_byte_the_one_that_was_sent(runtime):
    sent = Caller(runtime, "same", "sleeps", keep=True, seconds=0.1, size=10).ended()
    for _ in range(2):
        kept = about(runtime, "GET", "same")
        assert (kept.status_code, kept.content) == (sent.status_code, sent.content)
        assert kept.headers == sent.headers


def test_a_large_kept_answer_is_in_no_ones_memory(runtime):
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


def test_what_a_kept_run_raised_is_kept(runtime):
    call_and_hang_up(runtime, "raised", "raises", seconds=0.1)
    answer = about(runtime, "GET", "raised")
    assert (answer.status_code, answer.json()["kind"]) == (500, "exception")
    assert "division by zero" in answer.json()["traceback"]


def test_a_kept_generator_becomes_the_list_of_its_items(runtime):
    call_and_hang_up(runtime, "list", "counts", n=4)
    answer = about(runtime, "GET", "list").json()
    assert answer["result"] == [[number, ""] for number in range(4)]
    assert answer["progress"] == {"fraction": 0.75, "message": "3 of 4"}
    assert answer["execution_time_ms"] > 100


def test_a_kept_generator_without_items_is_an_empty_list(runtime):
    with runtime.new_client("tools") as client:
        client.post("/tools/counts", json={"n": 0}, headers={"X-Run-Id": "empty", "X-Run-Keep": "1"})
    assert about(runtime, "GET", "empty").json()["result"] == []


def test_items_over_the_limit_end_a_kept_run_that_nobody_reads(launch):
    runtime = launch(SOURCE, max_result="1000").ready()
    call_and_hang_up(runtime, "much", "counts", n=100, size=300)
    answer = about(runtime, "GET", "much")
    assert (answer.status_code, answer.json()["kind"]) == (500, "invalid_output")
    assert "limit of 1000 bytes" in answer.json()["error"]
    assert "counts" in runtime.result("which_closed")


def test_a_kept_stream_reaches_its_reader_even_when_it_is_too_much_to_keep(launch):
    runtime = launch(SOURCE, max_result="1000").ready()
    answer = Caller(runtime, "read", "counts", keep=True, n=6, size=300).ended()
    end = json.loads(answer.text.splitlines()[-1])
    assert (end["ok"], end["items"]) == (True, 6)
    assert about(runtime, "GET", "read").json()["kind"] == "invalid_output"


def test_the_answer_of_a_run_that_is_not_kept_cannot_be_had(runtime):
    caller = Caller(runtime, "plain", "sleeps", seconds=0.3)
    begin = time.monotonic()
    answer = about(runtime, "GET", "plain")
    assert time.monotonic() - begin > 0.1
    assert (answer.status_code, answer.json()["kind"]) == (410, "not_kept")
    assert caller.ended().json()["ok"]
    assert about(runtime, "GET", "plain").status_code == 404


def test_a_deleted_answer_is_gone(runtime):
    Caller(runtime, "gone", "sleeps", keep=True, seconds=0.05).ended()
    assert about(runtime, "DELETE", "gone").json() == {"run_id": "gone", "ended": True}
    answer = about(runtime, "GET", "gone")
    assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_run")


def test_only_the_last_answers_are_kept(runtime):
    headers = {"X-Run-Keep": "1"}
    with runtime.new_client("tools") as client:
        for number in range(260):
            client.post("/tools/which_closed", json={}, headers={**headers, "X-Run-Id": f"many-{number}"})
    assert about(runtime, "GET", "many-0").status_code == 404
    assert about(runtime, "GET", "many-259").status_code == 200


# Cancelling


@pytest.mark.parametrize("tool", ["counts", "acounts"])
def test_a_generator_is_closed_where_it_yields(runtime, tool):
    before = runtime.result("which_closed").split().count(tool)
    caller = Caller(runtime, f"stop-{tool}", tool, n=1000)
    assert cancel(runtime, f"stop-{tool}").status_code == 202
    end = json.loads(caller.ended().text.splitlines()[-1])
    assert (end["event"], end["ok"], end["kind"], end["error_type"]) == ("end", False, "cancelled", "Cancelled")
    assert runtime.result("which_closed").split().count(tool) == before + 1


def test_an_async_tool_is_cancelled_where_it_awaits(runtime):
    before = runtime.result("which_closed").count("waits")
    caller = Caller(runtime, "stop-waits", "waits", seconds=60)
    cancel(runtime, "stop-waits")
    answer = caller.ended()
    assert (answer.status_code, answer.json()["kind"]) == (409, "cancelled")
    assert runtime.result("which_closed").count("waits") == before + 1
    assert runtime.result("waits", seconds=0) == "waited"


@pytest.mark.parametrize("tool", ["looks", "looks_in_a_thread", "gives_up"])
def test_a_plain_tool_that_asks_is_told(runtime, tool):
    caller = Caller(runtime, f"stop-{tool}", tool)
    time.sleep(0.05)
    cancel(runtime, f"stop-{tool}")
    answer = caller.ended()
    assert (answer.status_code, answer.json()["kind"]) == (409, "cancelled")
    assert "traceback" not in answer.json()


def test_only_the_cancelled_one_of_two_runs_is_told(runtime):
    first, second = Caller(runtime, "first", "looks"), Caller(runtime, "second", "looks")
    cancel(runtime, "second")
    assert second.ended().status_code == 409
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["first"]
    cancel(runtime, "first")
    assert first.ended().status_code == 409


@pytest.mark.parametrize(("tool", "arguments"), [("will_not", {}), ("never_looks", {"seconds": 0.3})])
def test_a_tool_that_ends_as_if_nothing_were_asked_has_its_result(runtime, tool, arguments):
    caller = Caller(runtime, f"anyway-{tool}", tool, **arguments)
    cancel(runtime, f"anyway-{tool}")
    assert caller.ended().json()["ok"]


def test_that_it_was_cancelled_is_kept(runtime):
    call_and_hang_up(runtime, "stop-kept", "counts", n=1000)
    cancel(runtime, "stop-kept")
    answer = about(runtime, "GET", "stop-kept")
    assert (answer.status_code, answer.json()["kind"]) == (409, "cancelled")
    again = cancel(runtime, "stop-kept")
    assert (again.status_code, again.json()["ended"]) == (200, True)


def test_what_there_is_not_cannot_be_asked(runtime):
    for method, suffix in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", ""), ("PUT", "/cancel")]:
        answer = about(runtime, method, "nobody", suffix)
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_run")


def test_questions_about_runs_leave_the_connection_open(runtime):
    with runtime.new_client("tools") as client:
        client.post("/tools/which_closed", json={}, headers={"X-Run-Id": "open", "X-Run-Keep": "1"})
        for _ in range(3):
            assert client.get("/runs/open").status_code == 200
