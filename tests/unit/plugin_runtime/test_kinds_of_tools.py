"""What a tool is, is judged by what came back: behind a decorator, or returned by a plain function."""

import json

import pytest

SOURCE = """
    import asyncio, functools, itertools
    from typing import Iterator
    from plugin_runtime import Progress, tool

    def logged(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)
        return wrapper

    def logged_async(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return await function(*args, **kwargs)
        return wrapper

    def collected(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return list(function(*args, **kwargs))
        return wrapper

    class Awaitable:
        def __init__(self, value):
            self.value = value
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return self.value

    class Generator:
        # As Cython and wrapper classes make them.
        def __init__(self, items):
            self.items = iter(items)
        def __iter__(self):
            return self
        def __next__(self):
            return next(self.items)
        def send(self, value):
            return next(self.items)
        def throw(self, *error):
            raise error[0]
        def close(self):
            pass

    def numbers(n):
        for number in range(n):
            yield number

    async def async_numbers(n):
        for number in range(n):
            yield number

    class Plugin:
        def validate(self): pass

        @tool
        @logged
        def decorated(self, n: int) -> Iterator[int]:
            yield Progress(0.5)
            yield from range(n)

        @logged
        @tool
        def decorated_outside(self, n: int) -> Iterator[int]:
            yield from range(n)

        @tool
        @logged
        async def decorated_async(self, n: int) -> Iterator[int]:
            for number in range(n):
                yield number

        @tool
        def returns_one(self, n: int):
            return numbers(n)

        @tool
        def returns_an_expression(self, n: int):
            return (number for number in range(n))

        @tool
        def returns_an_async_one(self, n: int):
            return async_numbers(n)

        @tool
        async def awaits_and_returns_one(self, n: int):
            await asyncio.sleep(0)
            return async_numbers(n)

        @tool
        def returns_another_kind(self, n: int):
            return Generator(range(n))

        @tool
        @collected
        def is_collected(self, n: int):
            yield from range(n)

        @tool
        @logged_async
        async def decorated_plain(self, n: int) -> int:
            return n

        @tool
        @logged
        async def decorated_coroutine(self, n: int) -> int:
            await asyncio.sleep(0)
            return n

        @tool
        def returns_an_awaitable(self, n: int):
            return Awaitable(n)

        @tool
        async def returns_a_task(self, n: int):
            return await asyncio.get_running_loop().create_task(asyncio.sleep(0, n))

        @tool
        def returns_a_partial_coroutine(self, n: int):
            return asyncio.wait_for(asyncio.sleep(0, n), 5)

        @tool
        def raises_before(self, n: int):
            raise ValueError("no generator")
            yield

        @tool
        @logged
        def raises_within(self, n: int):
            yield 1
            raise ValueError("in the middle")
"""


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE).ready()


STREAMS = [
    "decorated",
    "decorated_outside",
    "decorated_async",
    "returns_one",
    "returns_an_expression",
    "returns_an_async_one",
    "awaits_and_returns_one",
    "returns_another_kind",
]


@pytest.mark.parametrize("tool", STREAMS)
def test_whatever_gives_a_generator_streams(runtime, tool):
    answer = runtime.run(tool, n=3)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["data"] for line in lines if line["event"] == "item"] == [0, 1, 2]
    assert (lines[-1]["event"], lines[-1]["ok"], lines[-1]["items"]) == ("end", True, 3)


def test_the_document_calls_a_decorated_generator_streaming(runtime):
    tools = {tool["name"]: tool["streaming"] for tool in runtime.status()["tools"]}
    assert all(tools[name] for name in ("decorated", "decorated_outside", "decorated_async"))
    assert not any(tools[name] for name in ("decorated_plain", "decorated_coroutine", "returns_one"))


PLAIN = [
    "decorated_plain",
    "decorated_coroutine",
    "returns_an_awaitable",
    "returns_a_task",
    "returns_a_partial_coroutine",
]


@pytest.mark.parametrize("tool", PLAIN)
def test_whatever_can_be_awaited_is(runtime, tool):
    assert runtime.result(tool, n=5) == 5


def test_a_decorator_that_collects_a_generator_answers_with_the_list(runtime):
    answer = runtime.run("is_collected", n=2)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"] == [0, 1]


def test_what_a_generator_raises_ends_its_stream(runtime):
    for tool, message in (("raises_before", "no generator"), ("raises_within", "in the middle")):
        end = json.loads(runtime.run(tool, n=1).text.splitlines()[-1])
        assert (end["ok"], end["error"]) == (False, message)


def test_a_retained_answer_of_a_decorated_generator_is_its_list(runtime):
    answer = runtime.post("decorated", json={"n": 2}, headers={"X-Run-Id": "retained", "X-Run-Keep": "1"})
    assert answer.status_code == 200
    with runtime.new_client("tools") as client:
        assert client.get("/runs/retained").json()["result"] == [0, 1]
