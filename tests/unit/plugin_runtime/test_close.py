"""`close` is called when the plugin is stopped: after the runs in flight, in the main thread, and at most once."""

import os
import signal
import time

import pytest
from unit.plugin_runtime.run_calls import Caller, executes, wait_for

pytestmark = pytest.mark.slow

SOURCE = """
    import asyncio, multiprocessing, os, re, threading, time
    from plugin_runtime import cancelled, tool

    class Plugin:
        def validate(self):
            self.events = []

        async def helper(self):
            self.loop = asyncio.get_running_loop()

        {close}

        @tool
        async def waits(self, seconds: float) -> None:
            self.loop = asyncio.get_running_loop()
            try:
                await asyncio.sleep(seconds)
            finally:
                self.events.append("waits ended")

        @tool
        def sleeps(self, seconds: float) -> str:
            try:
                time.sleep(seconds)
                self.events.append("slept")
            finally:
                self.events.append("sleeps ended")
            return "done"

        @tool
        def looks(self) -> None:
            while not cancelled():
                time.sleep(0.01)
            self.events.append("looks ended")

        @tool
        def is_stubborn(self) -> None:
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    self.events.append("again")

        @tool
        def holds_the_gil(self) -> None:
            re.match(r"(a+)+$", "a" * 64 + "b")

        @tool
        def ends_a_child(self) -> object:
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            time.sleep(0.1)
            child.terminate()
            child.join(5)
            return child.exitcode
"""
PLAIN = """
        def close(self):
            print("closed in", threading.current_thread().name, self.events, flush=True)
"""


def start(launch, close=PLAIN, **environment):
    return launch(SOURCE.replace("{close}", close.strip()), **environment).ready()


def stopped(runtime, within=4.0):
    """The seconds that it took, and the log."""
    begin = time.monotonic()
    runtime.process.send_signal(signal.SIGTERM)
    assert runtime.process.wait(within) == 0
    return time.monotonic() - begin, runtime.log.read_text()


def test_an_idle_plugin_is_closed_at_once(launch):
    seconds, log = stopped(start(launch))
    assert log.count("closed in MainThread") == 1
    assert seconds < 0.5


def test_an_async_close_runs_on_the_loop_of_the_async_tools(launch):
    runtime = start(
        launch,
        """
        async def close(self):
            await asyncio.sleep(0.01)
            print("closed on the loop:", asyncio.get_running_loop() is self.loop, flush=True)
        """,
    )
    runtime.run("waits", seconds=0)
    assert "closed on the loop: True" in stopped(runtime)[1]


@pytest.mark.parametrize(
    "close",
    ["def close(self): raise ValueError('not today')", "async def close(self): raise ValueError('not today')"],
)
def test_what_close_raises_is_logged_and_no_more(launch, close):
    _, log = stopped(start(launch, close))
    assert "close() raised ValueError" in log
    assert "not today" in log


@pytest.mark.parametrize(("tool", "left"), [("waits", "waits ended"), ("looks", "looks ended")])
def test_a_run_that_can_be_cancelled_ends_before_the_close(launch, tool, left):
    runtime = start(launch)
    caller = Caller(runtime, "run", tool, **({"seconds": 60} if tool == "waits" else {}))
    seconds, log = stopped(runtime)
    assert f"closed in MainThread ['{left}']" in log
    assert seconds < 0.5
    caller.thread.join()


def test_a_run_that_ends_soon_is_waited_for(launch):
    runtime = start(launch)
    caller = Caller(runtime, "run", "sleeps", seconds=0.3)
    assert "closed in MainThread ['slept', 'sleeps ended']" in stopped(runtime)[1]
    caller.thread.join()


def test_a_run_that_does_not_end_is_given_up(launch):
    """With its own clean-up, before the close."""
    runtime = start(launch)
    caller = Caller(runtime, "run", "sleeps", seconds=60)
    seconds, log = stopped(runtime)
    assert "closed in MainThread ['sleeps ended']" in log
    assert 0.4 < seconds < 1.5
    caller.thread.join()


def test_a_run_in_another_thread_that_does_not_end_is_given_up(launch):
    runtime = start(launch, concurrency="2")
    caller = Caller(runtime, "run", "sleeps", seconds=60)
    assert "closed in MainThread []" in stopped(runtime)[1]
    caller.thread.join()


@pytest.mark.parametrize("tool", ["is_stubborn", "holds_the_gil"])
def test_a_run_that_cannot_be_interrupted_leaves_the_end_to_the_kill(launch, tool):
    runtime = start(launch)
    caller = Caller(runtime, "run", tool)
    runtime.process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert runtime.process.poll() is None
    assert executes(runtime, "run")
    assert "closed" not in runtime.log.read_text()
    os.kill(runtime.status()["worker"]["pid"], signal.SIGKILL)
    assert runtime.process.wait(5) == 0
    caller.thread.join()


def test_a_killed_plugin_is_not_closed(launch):
    runtime = start(launch)
    os.kill(runtime.status()["worker"]["pid"], signal.SIGKILL)
    wait_for(lambda: runtime.status()["phase"] == "exited")
    assert "closed" not in runtime.log.read_text()


def test_a_second_signal_changes_nothing(launch):
    runtime = start(launch, "def close(self):\n            time.sleep(0.5)\n            print('closed', flush=True)")
    runtime.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert stopped(runtime)[1].count("closed") == 1


def test_a_child_that_the_plugin_forks_ends_by_sigterm(launch):
    assert start(launch).result("ends_a_child") == -signal.SIGTERM


def test_a_tool_named_close_is_no_close(launch):
    runtime = start(
        launch, "@tool\n        def close(self) -> str:\n            print('closed')\n            return 'c'"
    )
    assert runtime.result("close") == "c"
    assert stopped(runtime)[1].count("closed") == 1
