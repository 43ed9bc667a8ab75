"""The sockets that the runtime makes and the one that it writes to."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
from plugin_runtime.shared.sockets import listen, notify_ready


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="rt-") as path:
        yield Path(path)


def connect(path):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_socket_accepts_whoever_sees_its_name(folder):
    with listen(str(folder / "control.sock")):
        connect(folder / "control.sock")
        assert os.listdir(folder) == ["control.sock"]  # noqa: PTH208 - hidden names too
        assert (folder / "control.sock").stat().st_mode & 0o777 == 0o666


def test_a_socket_of_an_earlier_start_is_replaced(folder):
    listen(str(folder / "control.sock")).close()
    with listen(str(folder / "control.sock")):
        connect(folder / "control.sock")


def test_a_socket_may_have_the_longest_path_allowed(folder):
    long = folder / ("x" * (107 - len(str(folder)) - len("/control.sock") - 1))
    long.mkdir()
    path = str(long / "control.sock")
    assert len(path) == 107
    with listen(path):
        connect(path)


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_sent_as_sd_notify_does(folder, abstract):
    name = f"@rt-{os.getpid()}" if abstract else str(folder / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.settimeout(5)
        notify_ready(name)
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", [None, "", "/nowhere/notify.sock"])
def test_a_missing_listener_is_no_error(name):
    notify_ready(name)
