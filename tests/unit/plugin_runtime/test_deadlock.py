"""A deadlocked worker is not taken for a busy one: it answers and computes nothing, and no tool executes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

SOURCE = """
    import ctypes, re, threading, time
    from plugin_runtime import tool

    class Plugin:
        def validate(self): pass

        @tool
        def deadlocks(self, after: float) -> None:
            threading.Thread(target=lock_twice, args=(after,), daemon=True).start()

        @tool
        def deadlocks_many(self) -> None:
            for _ in range(12):
                threading.Thread(target=tick, daemon=True).start()
            threading.Thread(target=lock_twice, args=(0.1,), daemon=True).start()

        @tool
        def is_busy_behind(self) -> None:
            threading.Timer(0.2, re.match, (r"(a+)+$", "a" * 64 + "b")).start()

        @tool
        def hangs_with_the_gil(self) -> None:
            lock_twice(0)

        @tool
        def add(self, a: int) -> int:
            return a + 1

    def tick():
        while True:
            time.sleep(0.01)

    def lock_twice(after):
        time.sleep(after)
        library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
"""
FOUND_WITHIN = 10.0
"""Seconds."""
FOUND_ON_A_BUSY_HOST_WITHIN = 30.0
"""Seconds. A host that takes the processor away while a thread looks for the GIL counts that as the thread's work."""


def test_a_deadlocked_worker_is_found(launch):
    """Within ten seconds, and it still shows where it stands."""
    plugin = launch(SOURCE).ready()
    assert plugin.run("deadlocks", after=0.1).status_code == 200
    start = time.monotonic()
    assert plugin.until(lambda status: status["worker"]["stuck"])["phase"] == "ready"
    assert time.monotonic() - start < FOUND_WITHIN
    assert "lock_twice" in plugin.diagnose()


def test_a_deadlocked_worker_is_found_among_threads_that_want_the_gil(launch):
    """Each of them wakes 200 times a second to look for it: that is no work, and no reason never to find it."""
    plugin = launch(SOURCE).ready()
    assert plugin.run("deadlocks_many").status_code == 200
    start = time.monotonic()
    plugin.until(lambda status: status["worker"]["stuck"])
    assert time.monotonic() - start < FOUND_ON_A_BUSY_HOST_WITHIN


def test_a_busy_worker_that_gets_no_processor_is_not_called_stuck(launch):
    """It computes as soon as it is let, which other programs on the host may prevent for long."""
    plugin = launch(SOURCE).ready()
    pid = plugin.status()["worker"]["pid"]
    assert plugin.run("is_busy_behind").status_code == 200
    time.sleep(1)
    processor = {min(os.sched_getaffinity(0))}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        os.sched_setaffinity(hog.pid, processor)
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), processor)
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
        end = time.monotonic() + 12
        stuck = []
        while time.monotonic() < end:
            time.sleep(0.5)
            stuck.append(plugin.status()["worker"]["stuck"])
        hog.kill()
    assert not any(stuck)


def test_a_worker_that_was_stopped_is_found_and_may_recover(launch):
    """A debugger may have done that."""
    plugin = launch(SOURCE).ready()
    pid = plugin.status()["worker"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert plugin.until(lambda status: status["worker"]["stuck"])["worker"]["pid"] == pid
    os.kill(pid, signal.SIGCONT)
    assert plugin.until(lambda status: not status["worker"]["stuck"])["phase"] == "ready"
    assert plugin.run("add", a=1).json()["result"] == 2


def test_no_busy_idle_or_executing_worker_is_called_stuck(launch):
    """Neither one that computes with the GIL in its hands behind an answered call, nor one whose tool hangs: its time
    limit is the judge of that; nor one of which nobody wants anything.
    """
    busy, hung, idle = (launch(SOURCE).ready() for _ in range(3))
    assert busy.run("is_busy_behind").status_code == 200
    threading.Thread(target=_call, args=(hung,), daemon=True).start()
    end = time.monotonic() + 12
    while time.monotonic() < end:
        assert [plugin.status()["worker"]["stuck"] for plugin in (busy, hung, idle)] == [False] * 3
        time.sleep(0.5)
    assert idle.run("add", a=1).json()["result"] == 2


def _call(plugin):
    with contextlib.suppress(httpx.TransportError):  # the test ends it
        plugin.run("hangs_with_the_gil")
