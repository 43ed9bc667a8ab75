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
WATCHED_FOR = 12.0
"""Seconds for which those that must not be found are watched: more than a deadlocked one needs to be found."""


class Watched:
    """A plugin in its state, whose status is looked at every half second."""

    def __init__(self, plugin):
        self.plugin = plugin
        self.since = time.monotonic()
        self.found_after = None
        """Seconds until the worker was called stuck."""

    def look(self):
        if self.found_after is None and self.plugin.status()["worker"]["stuck"]:
            self.found_after = time.monotonic() - self.since


@pytest.fixture(scope="module")
def watched(launch_once):
    """Name of a state → the plugin in it. All at the same time: each is a wait of ten seconds."""
    plugins = {name: launch_once(SOURCE).ready() for name in STATES}
    with contextlib.ExitStack() as stack:
        found = {}
        for name, enter in STATES.items():
            enter(plugins[name], stack)
            found[name] = Watched(plugins[name])
        end = time.monotonic() + WATCHED_FOR
        while time.monotonic() < end:
            for each in found.values():
                each.look()
            time.sleep(0.5)
        yield found


def _deadlocked(plugin, _):
    assert plugin.run("deadlocks", after=0.1).status_code == 200


def _deadlocked_among_many(plugin, _):
    assert plugin.run("deadlocks_many").status_code == 200


def _stopped(plugin, _):
    os.kill(plugin.status()["worker"]["pid"], signal.SIGSTOP)


def _busy(plugin, _):
    assert plugin.run("is_busy_behind").status_code == 200


def _starved(plugin, stack):
    """Busy, and it gets no processor."""
    _busy(plugin, stack)
    time.sleep(1)
    processor = {min(os.sched_getaffinity(0))}
    hog = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
    stack.callback(hog.kill)
    os.sched_setaffinity(hog.pid, processor)
    for thread in Path(f"/proc/{plugin.status()['worker']['pid']}/task").iterdir():
        os.sched_setaffinity(int(thread.name), processor)
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def _hung(plugin, _):
    threading.Thread(target=_call, args=(plugin,), daemon=True).start()


def _idle(plugin, _):
    pass


STATES = {
    "deadlocked": _deadlocked,
    "deadlocked among many": _deadlocked_among_many,
    "stopped": _stopped,
    "busy": _busy,
    "starved": _starved,
    "hung": _hung,
    "idle": _idle,
}


def test_a_deadlocked_worker_is_found(watched):
    """Within ten seconds, and it still shows where it stands."""
    found = watched["deadlocked"]
    assert found.found_after < FOUND_WITHIN
    assert found.plugin.status()["phase"] == "ready"
    assert "lock_twice" in found.plugin.diagnose()


def test_a_deadlocked_worker_is_found_among_threads_that_want_the_gil(watched):
    """Each of them wakes 200 times a second to look for it: that is no work, and no reason never to find it."""
    found = watched["deadlocked among many"]
    while found.found_after is None:
        assert time.monotonic() - found.since < FOUND_ON_A_BUSY_HOST_WITHIN
        time.sleep(0.5)
        found.look()


def test_a_busy_worker_that_gets_no_processor_is_not_called_stuck(watched):
    """It computes as soon as it is let, which other programs on the host may prevent for long."""
    assert watched["starved"].found_after is None


def test_a_worker_that_was_stopped_is_found_and_may_recover(watched):
    """A debugger may have done that."""
    plugin = watched["stopped"].plugin
    status = plugin.until(lambda status: status["worker"]["stuck"])
    os.kill(status["worker"]["pid"], signal.SIGCONT)
    assert plugin.until(lambda status: not status["worker"]["stuck"])["phase"] == "ready"
    assert plugin.run("add", a=1).json()["result"] == 2


def test_no_busy_idle_or_executing_worker_is_called_stuck(watched):
    """Neither one that computes with the GIL in its hands behind an answered call, nor one whose tool hangs: its time
    limit is the judge of that; nor one of which nobody wants anything.
    """
    assert [watched[name].found_after for name in ("busy", "hung", "idle")] == [None] * 3
    assert watched["idle"].plugin.run("add", a=1).json()["result"] == 2


def _call(plugin):
    with contextlib.suppress(httpx.TransportError):  # the test ends it
        plugin.run("hangs_with_the_gil")
