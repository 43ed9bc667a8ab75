"""A plugin with tools of every kind, and calls that make runs of them."""

import contextlib
import json
import threading
import time

import httpx

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
            raise InterruptedError("I was cancelled")

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


class Caller:
    """One call of a tool in a thread of its own."""

    def __init__(self, runtime, run_id, tool, *, retain=False, **arguments):
        self.runtime, self.run_id, self.answer = runtime, run_id, None
        headers = {"X-Run-Id": run_id, **({"X-Run-Keep": "1"} if retain else {})}

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


def call_and_hang_up(runtime, run_id, tool, *, retain=True, **arguments):
    """The caller disconnects as soon as the tool executes."""
    body = json.dumps(arguments).encode()
    head = f"POST /tools/{tool} HTTP/1.1\r\nContent-Type: application/json\r\nX-Run-Id: {run_id}\r\n"
    head += f"X-Run-Keep: {int(retain)}\r\nContent-Length: {len(body)}\r\n\r\n"
    with runtime.connect("tools") as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: executes(runtime, run_id))


def about(runtime, method, run_id, suffix=""):
    with runtime.new_client("tools") as client:
        return client.request(method, f"/runs/{run_id}{suffix}")


def cancel(runtime, run_id):
    return about(runtime, "POST", run_id, "/cancel")
