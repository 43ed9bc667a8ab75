"""Batched tools in a real runtime: callers send one item and get one result, and disturb nobody else."""

import base64
import json
import re
import threading
import time

import pytest
from unit.plugin_runtime.run_calls import Caller, about, call_and_hang_up, cancel, executes, wait_for

pytestmark = pytest.mark.slow

SOURCE = """
    import asyncio, os, threading, time
    from dataclasses import dataclass
    from pathlib import Path
    from plugin_runtime import File, InvalidInput, Upload, cancelled, tool, trace_context

    GATE = os.environ["PYTHONPATH"] + "/gate"

    @dataclass
    class Box:
        x: int

    class Plugin:
        def validate(self): pass

        def hold(self):
            while Path(GATE).exists():
                time.sleep(0.005)

        @tool(batch=4, wait="1s")
        def detect(self, images: list[bytes], threshold: float = 0.5, box: Box = Box(1)) -> list[dict[str, object]]:
            together = [image.decode() for image in images]
            return [{"me": image.decode(), "together": together, "threshold": threshold, "box": box.x}
                    for image in images]

        @tool(batch=2, wait="10ms")
        def where(self, names: list[str]) -> list[bool]:
            return [threading.current_thread() is threading.main_thread()] * len(names)

        @tool(batch=4, wait="500ms")
        def held(self, names: list[str]) -> list[list[str]]:
            self.hold()
            return [[name, *names] for name in names]

        @tool(batch=2, wait="1s")
        def held_files(self, films: list[Path]) -> list[str]:
            self.hold()
            return [film.read_text() for film in films]

        @tool(batch=3, wait="1s")
        async def waits(self, names: list[str]) -> list[int]:
            await asyncio.sleep(0.01)
            return [len(names)] * len(names)

        @tool(batch=2, wait="1s")
        async def waits_long(self, names: list[str]) -> list[str]:
            await asyncio.sleep(30)
            return names

        @tool(batch=2, wait="1s")
        def looks(self, names: list[str]) -> list[str]:
            while not cancelled():
                time.sleep(0.005)
            return names

        @tool(batch=3, wait="1s")
        def odd(self, names: list[str]) -> object:
            match names[0]:
                case "raises": raise ZeroDivisionError("division by zero")
                case "refuses": raise InvalidInput("not today")
                case "short": return names[1:]
                case "none": return None
                case "generator": return (name for name in names)
                case "text": return "".join("x" for _ in names)
                case _: return [self.one(name) for name in names]

        def one(self, name):
            return {"bad": InvalidInput("bad is bad"), "nan": float("nan"), "object": object()}.get(name, name.upper())

        @tool(batch=4, wait="1s")
        def uploads(self, uploads: list[Upload]) -> list[File]:
            return [File(upload.read_bytes() + str(len(uploads)).encode(), name=upload.filename) for upload in uploads]

        @tool(batch=2, wait="1s")
        def traces(self, names: list[str]) -> list[dict[str, str]]:
            return [trace_context()] * len(names)

        @tool
        def plain(self, seconds: float = 0) -> bool:
            time.sleep(seconds)
            return threading.current_thread() is threading.main_thread()
"""
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module", params=["1", "4"])
def runtime(launch_once, request):
    runtime = launch_once(SOURCE, concurrency=request.param).ready()
    runtime.concurrency = int(request.param)
    return runtime


class Together:
    """Calls of one tool at the same time."""

    def __init__(self, runtime, tool, *requests):
        self.runtime, self.tool = runtime, tool
        self.answers = [None] * len(requests)
        # Before any call: to make a client takes longer than some batches wait.
        clients = [runtime.new_client("tools") for _ in requests]
        self.threads = [
            threading.Thread(target=self._call, args=(index, client, request))
            for index, (client, request) in enumerate(zip(clients, requests, strict=True))
        ]
        for thread in self.threads:
            thread.start()

    def _call(self, index, client, request):
        with client:
            self.answers[index] = client.post(f"/tools/{self.tool}", **request)

    def ended(self):
        for thread in self.threads:
            thread.join(20)
        assert None not in self.answers
        return self.answers


def together(runtime, tool, *arguments):
    return Together(runtime, tool, *({"json": each} for each in arguments)).ended()


def text64(text):
    return base64.b64encode(text.encode()).decode()


def test_the_schemas_are_those_of_one_item(runtime):
    tools = {tool["name"]: tool for tool in runtime.status()["tools"]}
    schema = tools["detect"]["input_schema"]
    assert schema["properties"]["images"] == {"type": "string", "contentEncoding": "base64"}
    assert schema["required"] == ["images"]
    assert tools["detect"]["output_schema"] == {"type": "object"}
    assert tools["detect"]["uploads"] == {"images": "bytes"}
    assert tools["detect"]["batch"] == {"max_size": 4, "max_wait_ms": 1000.0}
    assert tools["plain"]["batch"] is None
    assert tools["uploads"]["output_schema"]["title"] == "File"


def test_calls_at_the_same_time_are_one_call_of_the_tool_and_each_gets_its_own_result(runtime):
    answers = together(runtime, "detect", *({"images": text64(name)} for name in "abcd"))
    results = [answer.json()["result"] for answer in answers]
    assert [result["me"] for result in results] == list("abcd")
    assert sorted(results[0]["together"]) == list("abcd")
    assert all(result["together"] == results[0]["together"] for result in results)
    assert all(answer.json()["execution_time_ms"] > 0 for answer in answers)


def test_a_call_alone_waits_no_longer_than_it_may(runtime):
    before = time.monotonic()
    assert runtime.result("detect", images=text64("alone"))["together"] == ["alone"]
    assert time.monotonic() - before >= 1


def test_calls_whose_other_arguments_differ_are_apart_and_a_default_is_the_same_as_its_value(runtime):
    answers = together(
        runtime,
        "detect",
        {"images": text64("a")},
        {"images": text64("b"), "threshold": 0.5, "box": {"x": 1}},
        {"images": text64("c"), "threshold": 0.7},
        {"images": text64("d"), "box": {"x": 2}},
    )
    found = {answer.json()["result"]["me"]: answer.json()["result"] for answer in answers}
    assert sorted(found["a"]["together"]) == ["a", "b"]
    assert found["c"]["together"] == ["c"]
    assert found["d"]["together"] == ["d"]
    assert (found["c"]["threshold"], found["d"]["box"]) == (0.7, 2)


def test_a_batch_runs_where_the_other_tools_run(runtime):
    """In the main thread with `concurrency: 1`, also where calls of another kind come on the same connections."""
    for _ in range(3):
        main = runtime.result("plain")
        assert runtime.result("where", names="a") is main


def test_uploads_and_files_are_each_call_s_own(runtime):
    requests = [{"files": {"uploads": (f"{name}.txt", name.encode())}} for name in ("one", "two", "three")]
    raw = {
        "content": b"four",
        "headers": {"Content-Type": "text/plain", "Content-Disposition": "x; filename=four.txt"},
    }
    runs = [
        {**request, "headers": {**request.get("headers", {}), "X-Run-Id": f"file-{index}", "X-Run-Keep": "1"}}
        for index, request in enumerate([*requests, raw])
    ]
    answers = [answer.json() for answer in Together(runtime, "uploads", *runs).ended()]
    assert all(answer["ok"] for answer in answers), answers
    assert [answer["files"][0]["name"] for answer in answers] == ["one.txt", "two.txt", "three.txt", "four.txt"]
    content = [
        about(runtime, "GET", f"file-{index}", f"/files/{answer['files'][0]['name']}").text
        for index, answer in enumerate(answers)
    ]
    assert content == ["one4", "two4", "three4", "four4"]
    wait_for(lambda: not list((runtime.scratch / "uploads").glob("*")))


def test_an_argument_that_does_not_fit_is_refused_alone(runtime):
    good, bad, missing, listed = together(
        runtime, "detect", {"images": text64("a")}, {"images": "?"}, {}, {"images": [text64("a")]}
    )
    assert good.json()["result"]["together"] == ["a"]
    assert {answer.json()["kind"] for answer in (bad, missing, listed)} == {"invalid_arguments"}


def test_an_item_is_refused_alone_by_an_invalid_input_in_its_place(runtime):
    names = ("ok", "bad", "nan")
    fine, bad, nan = (answer.json() for answer in together(runtime, "odd", *({"names": name} for name in names)))
    assert fine["result"] == "OK"
    assert (bad["kind"], bad["error"], bad["error_type"]) == ("invalid_input", "bad is bad", "InvalidInput")
    assert nan["kind"] == "invalid_output"
    # The batch's own time, and not how long each has waited for it.
    assert {bad["execution_time_ms"], nan["execution_time_ms"]} == {fine["execution_time_ms"]}


@pytest.mark.parametrize(
    ("how", "kind", "phrase"),
    [
        ("raises", "exception", "division by zero"),
        ("refuses", "invalid_input", "not today"),
        ("short", "invalid_output", "got 2 results for 3 items"),
        ("none", "invalid_output", "got a NoneType for 3 items"),
        ("generator", "invalid_output", "got a generator for 3 items"),
        ("text", "invalid_output", "got a str for 3 items"),
    ],
)
def test_what_is_wrong_with_the_whole_batch_is_every_caller_s(runtime, how, kind, phrase):
    answers = [answer.json() for answer in together(runtime, "odd", *({"names": how} for _ in range(3)))]
    assert [answer["kind"] for answer in answers] == [kind] * 3
    assert len({answer["execution_time_ms"] for answer in answers}) == 1
    assert all(phrase in answer["error"] for answer in answers)
    assert all(("traceback" in answer) is (kind == "exception") for answer in answers)


def test_a_traceback_of_a_batch_is_logged_once_with_all_its_runs(launch_once):
    runtime = launch_once(SOURCE).ready()
    requests = [{"json": {"names": "raises"}, "headers": {"X-Run-Id": f"log-{number}"}} for number in range(3)]
    Together(runtime, "odd", *requests).ended()
    log = runtime.log.read_text()
    assert log.count("ZeroDivisionError: division by zero") == 1
    (line,) = [line for line in log.splitlines() if "tool odd raised" in line]
    assert all(f"log-{number}" in line for number in range(3))


def test_async_batches_are_awaited(runtime):
    answers = together(runtime, "waits", *({"names": name} for name in "abc"))
    assert [answer.json()["result"] for answer in answers] == [3, 3, 3]


@pytest.fixture
def gate(runtime):
    (runtime.folder / "gate").touch()
    yield runtime
    open_gate(runtime)


def open_gate(runtime):
    (runtime.folder / "gate").unlink(missing_ok=True)


def queued(runtime, *names):
    """Calls that wait for a batch, behind as many that execute as may."""
    first = [Caller(runtime, f"first-{number}", "held", names="first") for number in range(runtime.concurrency)]
    callers = [Waiting(runtime, name, "held", names=name) for name in names]
    wait_until_read(runtime, len(first) + len(callers))
    return first, callers


def wait_until_read(runtime, calls):
    """Until so many calls of batched tools have been read and are not yet answered: their threads' stacks show it."""
    wait_for(lambda: len(re.findall(r'batching\.py", line \d+ in _wait', runtime.diagnose())) == calls)


class Waiting(Caller):
    """A call that nobody waits for to execute."""

    def __init__(self, runtime, run_id, tool, *, retain=False, **arguments):
        self.runtime, self.run_id, self.answer = runtime, run_id, None
        headers = {"X-Run-Id": run_id, **({"X-Run-Keep": "1"} if retain else {})}

        client = runtime.new_client("tools")

        def call():
            with client:
                self.answer = client.post(f"/tools/{tool}", json=arguments, headers=headers)

        self.thread = threading.Thread(target=call)
        self.thread.start()


def test_a_run_that_is_cancelled_while_it_waits_leaves_the_batch(gate):
    first, (a, b, c) = queued(gate, "a", "b", "c")
    assert not executes(gate, "b")
    assert cancel(gate, "b").status_code == 202
    assert b.ended().status_code == 409
    open_gate(gate)
    assert sorted(a.ended().json()["result"][1:]) == ["a", "c"]
    assert sorted(c.ended().json()["result"][1:]) == ["a", "c"]
    assert all(caller.ended().status_code == 200 for caller in first)


def test_a_run_whose_caller_hangs_up_while_it_waits_leaves_the_batch_unless_its_answer_is_retained(gate):
    first, (a,) = queued(gate, "a")
    for number, (name, keep) in enumerate((("gone", 0), ("kept", 1)), 1):
        body = json.dumps({"names": name}).encode()
        head = f"POST /tools/held HTTP/1.1\r\nContent-Type: application/json\r\nX-Run-Id: {name}\r\n"
        head += f"X-Run-Keep: {keep}\r\n"
        with gate.connect("tools") as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until_read(gate, len(first) + 1 + number)  # before the next is sent
    open_gate(gate)
    assert sorted(a.ended().json()["result"][1:]) == ["a", "kept"]
    assert sorted(about(gate, "GET", "kept").json()["result"][1:]) == ["a", "kept"]
    assert about(gate, "GET", "gone").status_code == 404
    assert all(caller.ended().status_code == 200 for caller in first)


def test_a_run_that_is_cancelled_while_its_batch_executes_is_answered_and_the_others_are_not_disturbed(gate):
    """At once: to wait for the others would look like a tool that does not end, whose container is stopped."""
    callers = [Waiting(gate, name, "held", names=name) for name in "abc"]
    wait_for(lambda: all(executes(gate, name) for name in "abc"))
    cancel(gate, "b")
    assert callers[1].ended().status_code == 409
    open_gate(gate)
    assert [callers[index].ended().json()["result"][0] for index in (0, 2)] == ["a", "c"]
    assert sorted(callers[0].ended().json()["result"][1:]) == ["a", "b", "c"]


def test_the_upload_of_a_cancelled_run_stays_as_long_as_its_batch_executes(gate):
    requests = [
        {"files": {"films": ("x.txt", name)}, "headers": {"X-Run-Id": f"film-{name.decode()}"}} for name in (b"a", b"b")
    ]
    calls = Together(gate, "held_files", *requests)
    wait_for(lambda: all(executes(gate, name) for name in ("film-a", "film-b")))
    cancel(gate, "film-a")
    wait_for(lambda: calls.answers[0] is not None)
    open_gate(gate)
    assert [answer.status_code for answer in calls.ended()] == [409, 200]
    assert calls.answers[1].json()["result"] == "b"
    wait_for(lambda: not list((gate.scratch / "uploads").glob("*")))


def test_the_last_run_of_a_batch_that_is_cancelled_waits_for_the_tool_which_sees_it(runtime):
    callers = [Waiting(runtime, name, "looks", names=name) for name in "ab"]
    wait_for(lambda: all(executes(runtime, name) for name in "ab"))
    cancel(runtime, "a")
    assert callers[0].ended().status_code == 409
    assert executes(runtime, "b")
    cancel(runtime, "b")
    assert callers[1].ended().status_code == 409


def test_an_async_batch_is_cancelled_once_all_its_runs_are(runtime):
    callers = [Waiting(runtime, name, "waits_long", names=name) for name in "ab"]
    wait_for(lambda: all(executes(runtime, name) for name in "ab"))
    for name in "ab":
        cancel(runtime, name)
    assert [caller.ended().status_code for caller in callers] == [409, 409]


def test_a_run_that_cannot_start_within_its_time_is_refused_and_the_plugin_goes_on(gate):
    first, (patient,) = queued(gate, "patient")
    with gate.new_client("tools") as client:
        before = time.monotonic()
        answer = client.post("/tools/held", json={"names": "hasty"}, headers={"X-Time-Limit": "0.5"})
        waited = time.monotonic() - before
    assert (answer.status_code, answer.json()["kind"]) == (503, "too_busy")
    assert waited < 0.5
    open_gate(gate)
    assert patient.ended().json()["result"][1:] == ["patient"]
    assert all(caller.ended().status_code == 200 for caller in first)


def test_a_time_limit_shorter_than_the_wait_starts_the_batch(launch_once):
    source = """
        from plugin_runtime import tool
        class Plugin:
            def validate(self): pass
            @tool(batch=8, wait="30s")
            def size(self, names: list[str]) -> list[int]:
                return [len(names)] * len(names)
    """
    runtime = launch_once(source).ready()
    patient = Waiting(runtime, "patient", "size", names="a")
    wait_until_read(runtime, 1)
    with runtime.new_client("tools") as client:
        answer = client.post("/tools/size", json={"names": "b"}, headers={"X-Time-Limit": "1"})
    assert answer.json()["result"] == 2
    assert patient.ended().json()["result"] == 2


def test_a_batch_has_a_trace_where_all_its_calls_have_the_same(runtime):
    same = [{"json": {"names": name}, "headers": {"traceparent": PARENT}} for name in "ab"]
    answers = Together(runtime, "traces", *same).ended()
    assert [answer.json()["result"] for answer in answers] == [{"traceparent": PARENT}] * 2
    mixed = [{"json": {"names": "a"}}, same[0]]
    assert {str(answer.json()["result"]) for answer in Together(runtime, "traces", *mixed).ended()} == {"{}"}


def test_sizes_and_waits_are_counted(launch_once):
    runtime = launch_once(SOURCE).ready()
    names = [tool["name"] for tool in runtime.status()["tools"] if tool["batch"]]
    assert [each["tool"] for each in runtime.status()["batches"]] == names
    together(runtime, "waits", *({"names": name} for name in "abc"))
    runtime.result("waits", names="d")
    found = next(each for each in runtime.status()["batches"] if each["tool"] == "waits")
    sizes = dict(zip(found["sizes"]["bounds"], found["sizes"]["counts"], strict=False))
    assert (sizes[1], sizes[4], sum(found["sizes"]["counts"])) == (1, 1, 2)
    assert sum(found["waits"]["counts"]) == 4
    assert found["waits"]["sum_seconds"] >= 0.1
    assert all(sum(each["sizes"]["counts"]) == 0 for each in runtime.status()["batches"] if each["tool"] != "waits")


def test_runs_of_a_batch_are_listed_and_counted_each(gate):
    begun = gate.status()["runs_begun"]
    callers = [Waiting(gate, name, "held", names=name) for name in "abc"]
    wait_for(lambda: all(executes(gate, name) for name in "abc"))
    assert gate.status()["runs_begun"] == begun + 3
    open_gate(gate)
    assert all(caller.ended().status_code == 200 for caller in callers)
    wait_for(lambda: gate.status()["runs"] == [])


def test_a_stop_ends_what_waits_and_what_executes(launch_once):
    source = (
        SOURCE
        + """
        def close(self):
            print("closed")
    """
    )
    runtime = launch_once(source).ready()
    executing = [Waiting(runtime, name, "looks", names=name) for name in "ab"]
    wait_for(lambda: all(executes(runtime, name) for name in "ab"))
    waiting = Waiting(runtime, "c", "held", names="c")
    wait_until_read(runtime, 3)
    runtime.process.terminate()
    assert runtime.process.wait(10) == 0
    assert {caller.ended().status_code for caller in (*executing, waiting)} == {409}
    assert "closed" in runtime.log.read_text()


@pytest.mark.parametrize(
    ("decorator", "signature", "phrases"),
    [
        ("batch=1", "xs: list[int]) -> list[int]", ["tool run: `batch` is 1", "from 2 to 1024"]),
        ("batch=1025", "xs: list[int]) -> list[int]", ["`batch` is 1025"]),
        ('batch=2, wait="5 minutes"', "xs: list[int]) -> list[int]", ["`wait` is '5 minutes'"]),
        ('wait="5ms"', "xs: list[int]) -> list[int]", ["give `batch` too"]),
        ("batch=2", "xs: int) -> list[int]", ["tool run, parameter xs", "list[bytes]"]),
        ("batch=2", "xs: list) -> list[int]", ["tool run, parameter xs", "list[bytes]"]),
        ("batch=2", "xs: list[int] = []) -> list[int]", ["tool run, parameter xs", "without a default"]),
        ("batch=2", ") -> list[int]", ["tool run", "a first parameter"]),
        ("batch=2", "xs: list[int]) -> dict[str, int]", ["tool run", "returns a list with a result for each item"]),
        ("batch=2", "xs: list[int]) -> int", ["tool run", "returns a list"]),
        ('idempotent="yes"', "xs: int) -> int", ["`idempotent` is 'yes'"]),
    ],
)
def test_what_cannot_be_batched_is_refused_at_the_start(launch, decorator, signature, phrases):
    comma = ", " if not signature.startswith(")") else ""
    source = f"""
        from plugin_runtime import tool
        class Plugin:
            def validate(self): pass
            @tool({decorator})
            def run(self{comma}{signature}:
                return xs
    """
    status = launch(source).settled()
    assert (status["phase"], status["reason_code"]) == ("failed", "INIT_ERROR")
    assert all(phrase in status["reason"] for phrase in phrases), status["reason"]


@pytest.mark.parametrize(("pids", "phase"), [(80, "ready"), (79, "failed")])
def test_a_batch_needs_room_for_the_threads_of_its_calls(launch, pids, phase):
    source = """
        from plugin_runtime import tool
        class Plugin:
            def validate(self): pass
            @tool(batch=32)
            def run(self, xs: list[int]) -> list[int]:
                return xs
    """
    # As a mapping without what this machine does not hold the test to.
    files = {"sitecustomize.py": "from plugin_runtime.startup import checks\nchecks.not_held = lambda *_: ()"}
    status = launch(source, files=files, limits={"pids": pids}).settled()
    assert status["phase"] == phase
    if phase == "failed":
        assert status["reason_code"] == "INIT_ERROR"
        assert "`limits.pids` in plugin.yaml, which is 79, to at least 80" in status["reason"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generator_cannot_be_batched(launch, kind):
    source = f"""
        from collections.abc import Iterator
        from plugin_runtime import tool
        class Plugin:
            def validate(self): pass
            @tool(batch=2)
            {kind} run(self, xs: list[int]) -> Iterator[int]:
                yield 1
    """
    status = launch(source).settled()
    assert status["reason_code"] == "INIT_ERROR"
    assert "tool run: a generator cannot be batched" in status["reason"]


def test_a_tool_says_that_it_is_idempotent(launch):
    source = """
        from plugin_runtime import InvalidInput, tool
        class Plugin:
            def validate(self): pass
            @tool(idempotent=True)
            def one(self) -> None: pass
            @tool()
            def other(self) -> None: pass
            @tool(batch=2)
            def refuses(self, xs: list[int]) -> list[int | InvalidInput]: return xs
    """
    tools = {tool["name"]: tool for tool in launch(source).settled()["tools"]}
    assert [tools[name]["idempotent"] for name in ("one", "other")] == [True, False]
    assert tools["refuses"]["output_schema"] == {"type": "integer"}


def test_a_caller_that_hangs_up_while_its_batch_executes_disturbs_nobody(gate):
    other = Waiting(gate, "other", "held", names="other")
    call_and_hang_up(gate, "leaves", "held", retain=False, names="leaves")
    open_gate(gate)
    assert sorted(other.ended().json()["result"][1:]) in (["leaves", "other"], ["other"])
    assert gate.result("held", names="next")[0] == "next"
