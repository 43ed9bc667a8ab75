"""Tool calls over the socket: every kind of body, every kind of answer."""

import time

import pytest
from unit.plugin_runtime.called_plugin import SOURCE


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE, max_result="4096").ready()


def test_a_result_comes_with_the_tools_own_time(runtime):
    answer = runtime.run("add", a=1)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["ok"] is True
    assert document["result"] == 3
    assert 0 <= document["execution_time_ms"] < 1000


def test_time_is_the_tools_time(runtime):
    assert runtime.run("sleep", seconds=0.05).json()["execution_time_ms"] >= 50


@pytest.mark.parametrize(
    ("request_", "result"),
    [
        ({"json": {"image": "AQID", "scale": 2}}, {"bytes": 3, "scale": 2.0, "begin": [1, 2]}),
        ({"files": {"image": ("a.png", b"\xff\x00" * 50_000)}}, {"bytes": 100_000, "scale": 1.0, "begin": [255, 0]}),
        (
            {"files": {"image": ("a.png", b"abc")}, "data": {"scale": "0.5"}},
            {"bytes": 3, "scale": 0.5, "begin": [97, 98]},
        ),
        (
            {"files": {"image": ("", b"abc", "image/png"), "scale": (None, "0.5")}},
            {"bytes": 3, "scale": 0.5, "begin": [97, 98]},
        ),
        ({"files": {"image": ("a", b"abc")}, "params": {"scale": "4"}}, {"bytes": 3, "scale": 4.0, "begin": [97, 98]}),
        (
            {"content": b"\x89PNG", "headers": {"content-type": "image/png"}, "params": {"scale": "3"}},
            {"bytes": 4, "scale": 3.0, "begin": [0x89, 80]},
        ),
        ({"content": b"", "headers": {"content-type": "image/png"}}, {"bytes": 0, "scale": 1.0, "begin": []}),
        (
            {"content": iter([b"ab", b"cd"]), "headers": {"content-type": "image/png"}},
            {"bytes": 4, "scale": 1.0, "begin": [97, 98]},
        ),
    ],
    ids=["json", "multipart", "form value", "part without file name", "query with form", "raw", "empty raw", "chunked"],
)
def test_every_kind_of_body_reaches_the_tool(runtime, request_, result):
    assert runtime.post("size", **request_).json()["result"] == result


def test_no_body_is_no_arguments(runtime):
    assert runtime.post("without").json()["result"] == "called"
    assert runtime.post("add", params={"a": "5"}).json()["result"] == 7
    # As the orchestrator passes on a request without a body and its type.
    as_json = runtime.post("add", params={"a": "5"}, headers={"content-type": "application/json"})
    assert as_json.json()["result"] == 7


def test_two_uploads_come_as_a_form(runtime):
    files = {"left": ("l", b"L"), "right": ("r", b"R")}
    assert runtime.post("two", files=files).json()["result"] == ["L", "R"]


REFUSED = {
    "unknown tool": ("nothing", {"json": {}}, 404, "unknown_tool", "add"),
    "broken json": (
        "add",
        {"content": b"{", "headers": {"content-type": "application/json"}},
        400,
        "bad_request",
        "JSON",
    ),
    "wrong type": ("add", {"json": {"a": "x"}}, 422, "invalid_arguments", "parameter 'a'"),
    "missing": ("add", {"json": {}}, 422, "invalid_arguments", "'a' is missing"),
    "json and query": ("add", {"json": {"a": 1}, "params": {"b": "1"}}, 422, "invalid_arguments", "query string"),
    "raw without upload": (
        "add",
        {"content": b"x", "headers": {"content-type": "image/png"}},
        415,
        "unsupported_media_type",
        "application/json",
    ),
    "raw for two uploads": (
        "two",
        {"content": b"x", "headers": {"content-type": "image/png"}},
        415,
        "unsupported_media_type",
        "left, right",
    ),
    "form with an unknown part": (
        "add",
        {"files": {"c": (None, "1")}},
        422,
        "invalid_arguments",
        "no parameter named 'c'",
    ),
    "form with an upload twice": (
        "size",
        {"files": [("image", ("a", b"1")), ("image", ("b", b"2"))]},
        422,
        "invalid_arguments",
        "twice",
    ),
    "form without boundary": (
        "size",
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "bad_request",
        "boundary",
    ),
    "form that breaks off": (
        "size",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
            "headers": {"content-type": "multipart/form-data; boundary=b"},
        },
        400,
        "bad_request",
        "closing boundary",
    ),
    "no form": (
        "size",
        {"content": b"abcdef", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        400,
        "bad_request",
        "malformed",
    ),
    "too many parts": (
        "say",
        {"files": [("text", (None, "x"))] * 101},
        413,
        "too_large",
        "100 parts",
    ),
    "huge json": (
        "say",
        {"content": b'"' + b"x" * (33 << 20) + b'"', "headers": {"content-type": "application/json"}},
        413,
        "too_large",
        "multipart",
    ),
    "huge json in chunks": (
        "say",
        {"content": iter([b"x" * (1 << 20)] * 33), "headers": {"content-type": "application/json"}},
        413,
        "too_large",
        "multipart",
    ),
    "invalid input": ("refuses", {"json": {}}, 422, "invalid_input", "no face"),
}


@pytest.mark.parametrize(("tool", "request_", "status", "kind", "part"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_refused_and_the_plugin_goes_on(runtime, tool, request_, status, kind, part):
    answer = runtime.post(tool, **request_)
    document = answer.json()
    assert answer.status_code == status
    assert document["ok"] is False
    assert document["kind"] == kind
    assert part in document["error"]
    assert document["error_type"]
    assert runtime.result("add", a=1) == 3


@pytest.mark.parametrize(
    ("what", "error_type", "error"),
    [
        ("value", "ValueError", "bad value"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("stop", "StopIteration", ""),
        ("memory", "MemoryError", ""),
        ("exitcode", "GeneratorExit", ""),
        ("surrogate", "ValueError", "\\ud800"),
    ],
)
def test_whatever_a_tool_raises_ends_the_call_and_not_the_worker(runtime, what, error_type, error):
    answer = runtime.run("raises", what=what)
    document = answer.json()
    assert answer.status_code == 500
    assert (document["kind"], document["error_type"], document["error"]) == ("exception", error_type, error)
    assert "in raises" in document["traceback"]
    assert "plugin_runtime" not in document["traceback"]
    assert runtime.result("add", a=1) == 3


@pytest.mark.parametrize(
    ("what", "error_type"), [("exit", "SystemExit"), ("cancel", "CancelledError"), ("value", "ValueError")]
)
def test_whatever_an_async_tool_raises_leaves_the_loop_alive(runtime, what, error_type):
    document = runtime.run("async_raises", what=what).json()
    assert (document["kind"], document["error_type"]) == ("exception", error_type)
    assert "in async_raises" in document["traceback"]
    assert runtime.result("wait") == "async-tools"


@pytest.mark.parametrize(
    ("what", "part"),
    [("nan", "result is nan"), ("object", "result is a object"), ("big", "5002 bytes as JSON and 4096 are allowed")],
)
def test_what_is_no_result_is_invalid_output(runtime, what, part):
    answer = runtime.run("returns", what=what)
    assert answer.status_code == 500
    assert answer.json()["kind"] == "invalid_output"
    assert part in answer.json()["error"]


def test_a_tools_traceback_and_prints_are_in_the_log_with_the_run_id(runtime):
    runtime.post("raises", json={"what": "value"}, headers={"x-run-id": "run-abc"})
    runtime.run("say", text="hello log")
    deadline = time.monotonic() + 10  # what is printed takes its own way to the log
    while "printed: hello log" not in (log := runtime.log.read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.01)
    assert "run run-abc: tool raises raised ValueError" in log


def test_a_child_that_a_tool_forks_does_not_answer(runtime):
    answers = [runtime.run("forks").json() for _ in range(3)]
    assert [answer["result"] for answer in answers] == [70, 70, 70]
    assert runtime.result("add", a=1) == 3


def test_calls_on_different_connections_run_side_by_side(launch):
    import threading
    import time

    runtime = launch(SOURCE, concurrency="4").ready()
    clients = [runtime.new_client("tools") for _ in range(4)]  # making one takes longer than a call
    answers = []

    def call(client):
        with client:
            answers.append(client.post("/tools/sleep", json={"seconds": 0.4}).json()["ok"])

    threads = [threading.Thread(target=call, args=(client,)) for client in clients]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin < 1.2
    assert answers == [True] * 4
