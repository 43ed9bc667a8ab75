"""The control socket, where the supervisor has no file descriptors left."""

import os
import resource
import selectors
import socket
import tempfile
import time

import pytest
from plugin_runtime.supervising.control import ACCEPT_RETRY_SECONDS, ControlSocket


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="rt-") as folder:
        yield f"{folder}/control.sock"


def another() -> int | None:
    try:
        return os.dup(0)
    except OSError:
        return None


@pytest.fixture
def no_descriptors_left():
    """No new one can be had until this is called."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    taken = []

    def release():
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)
        taken.clear()

    def take():
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(free, 0) + 1, before[1]))
        while (descriptor := another()) is not None:
            taken.append(descriptor)
        return release

    yield take
    release()


def test_a_caller_that_cannot_be_accepted_waits_and_nothing_spins(path, no_descriptors_left):
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as caller:
        requests = []

        def answer(connection, method, target):
            requests.append((method, target))
            connection.reply(200, {})

        control = ControlSocket(path, selector, answer)

        def turns(seconds: float) -> int:
            """Of the supervisor's loop: how often it woke."""
            woken, end = 0, time.monotonic() + seconds
            while (now := time.monotonic()) < end:
                control.resume_accepting(now)
                for key, events in selector.select(min(end, control.accept_again_at) - now):
                    key.data(events)
                    woken += 1
            return woken

        caller.connect(path)
        caller.sendall(b"GET /status HTTP/1.1\r\nHost: plugin\r\n\r\n")
        release = no_descriptors_left()
        seconds = 5 * ACCEPT_RETRY_SECONDS
        assert 1 <= turns(seconds) <= seconds / ACCEPT_RETRY_SECONDS + 1
        release()
        deadline = time.monotonic() + 15
        while not requests and time.monotonic() < deadline:
            turns(ACCEPT_RETRY_SECONDS)
        assert requests == [("GET", "/status")]
        caller.close()
        turns(ACCEPT_RETRY_SECONDS)
        control._listener.close()
