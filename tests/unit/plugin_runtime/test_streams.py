"""Generator tools: what they yield is with the caller at once, and their end says how it went."""

import json
import time

import pytest

SOURCE = """
    import asyncio, time
    from plugin_runtime import InvalidInput, Progress, tool

    class Plugin:
        closed = ""

        def validate(self): pass

        @tool
        def count(self, n: int) -> object:
            for number in range(n):
                yield Progress(number / n, f"{number} of {n}")
                yield {"number": number}

        @tool
        async def acount(self, n: int) -> object:
            for number in range(n):
                await asyncio.sleep(0)
                yield Progress(number / n, f"{number} of {n}")
                yield {"number": number}

        @tool
        def slowly(self) -> object:
            try:
                for number in range(100):
                    yield number
                    time.sleep(0.1)
            finally:
                self.closed += "slowly "

        @tool
        async def aslowly(self) -> object:
            try:
                for number in range(100):
                    yield number
                    await asyncio.sleep(0.1)
            finally:
                self.closed += "aslowly "

        @tool
        def which_closed(self) -> str:
            return self.closed

        @tool
        def ends_by(self, what: str, after: int = 1) -> object:
            for number in range(after):
                yield number
            if what == "nan":
                yield float("nan")
            raise {"value": ValueError("bad"), "exit": SystemExit(2), "refuse": InvalidInput("no frames"),
                   "nan": None}[what]

        @tool
        async def aends_by(self, what: str) -> object:
            yield 0
            raise {"value": ValueError("bad"), "exit": SystemExit(2)}[what]

        @tool
        def nothing(self) -> object:
            yield from ()
"""


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE).ready()


def events(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("tool", ["count", "acount"])
def test_progress_and_items_come_in_order_and_the_end_counts_them(runtime, tool):
    answer = runtime.run(tool, n=2)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    *lines, end = events(answer)
    assert lines == [
        {"event": "progress", "fraction": 0.0, "message": "0 of 2"},
        {"event": "item", "data": {"number": 0}},
        {"event": "progress", "fraction": 0.5, "message": "1 of 2"},
        {"event": "item", "data": {"number": 1}},
    ]
    assert end.pop("execution_time_ms") >= 0
    assert end == {"event": "end", "ok": True, "items": 2}


def test_a_generator_without_events_has_an_end(runtime):
    (end,) = events(runtime.run("nothing"))
    assert (end["event"], end["ok"], end["items"]) == ("end", True, 0)


@pytest.mark.parametrize("tool", ["slowly", "aslowly"])
def test_an_event_is_with_the_caller_before_the_next_is_made(runtime, tool):
    begin = time.monotonic()
    with runtime.new_client("tools") as client, client.stream("POST", f"/tools/{tool}") as response:
        lines = response.iter_lines()
        next(lines)
        next(lines)
        assert 0.1 <= time.monotonic() - begin < 5  # all of them take ten seconds


@pytest.mark.parametrize("tool", ["slowly", "aslowly"])
def test_a_caller_that_hangs_up_ends_the_generator(runtime, tool):
    before = runtime.result("which_closed").split().count(tool)
    with runtime.new_client("tools") as client, client.stream("POST", f"/tools/{tool}") as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 5
    while runtime.result("which_closed").split().count(tool) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert runtime.result("which_closed").split().count(tool) == before + 1


@pytest.mark.parametrize(
    ("tool", "what", "kind", "error_type"),
    [
        ("ends_by", "value", "exception", "ValueError"),
        ("ends_by", "exit", "exception", "SystemExit"),
        ("ends_by", "refuse", "invalid_input", "InvalidInput"),
        ("ends_by", "nan", "invalid_output", "InvalidOutput"),
        ("aends_by", "value", "exception", "ValueError"),
        ("aends_by", "exit", "exception", "SystemExit"),
    ],
)
def test_a_generator_that_fails_says_so_at_the_end(runtime, tool, what, kind, error_type):
    *lines, end = events(runtime.run(tool, what=what))
    assert lines == [{"event": "item", "data": 0}]
    assert (end["event"], end["ok"], end["kind"], end["error_type"]) == ("end", False, kind, error_type)
    assert ("traceback" in end) is (kind == "exception")
    assert len(events(runtime.run("count", n=1))) == 3


def test_arguments_are_refused_before_the_first_line(runtime):
    answer = runtime.run("count", n="x")
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_arguments")


def test_input_refused_before_the_first_event_is_a_plain_answer(runtime):
    answer = runtime.run("ends_by", what="refuse", after=0)
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_input")


def test_the_connection_serves_on_after_a_stream(runtime):
    call = b"POST /tools/nothing HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    with runtime.connect("tools") as connection:
        for _ in range(2):
            connection.sendall(call)
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += connection.recv(65536)
            assert b'"event":"end"' in answer
