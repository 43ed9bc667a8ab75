"""The runtime's sockets fed with garbage: it answers or hangs up, and serves the next caller."""

import random
import socket

import pytest
from support.mutations import corrupted

pytestmark = pytest.mark.slow

SOURCE = """
    from plugin_runtime import tool

    class Plugin:
        def validate(self): pass

        @tool
        def add(self, a: int) -> int:
            return a + 1

        @tool
        def length(self, data: bytes) -> int:
            return len(data)
"""
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="data"; filename="f"\r\n\r\nabc\r\n'
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
)
REQUESTS = {
    "tools": [
        (
            b"POST /tools/add HTTP/1.1\r\nContent-Type: application/json\r\nX-Run-Id: r1\r\nContent-Length: 8\r\n\r\n"
            b'{"a": 1}'
        ),
        (
            b"POST /tools/length HTTP/1.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n"
        ),
        b"POST /tools/length HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n%s"
        % (len(FORM), FORM),
        b"GET /runs/r1 HTTP/1.1\r\n\r\n",
        b"POST /runs/r1/cancel HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ],
    "control": [
        b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /watch HTTP/1.1\r\n\r\n",
        b"POST /diagnose HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ],
}
ROUNDS = 200


@pytest.mark.parametrize("name", REQUESTS)
def test_mutated_requests(name, launch):
    """Heads and bodies cut, doubled, flipped, interleaved with noise."""
    random.seed(7)
    plugin = launch(SOURCE).ready()
    pid = plugin.status()["worker"]["pid"]
    for _ in range(ROUNDS):
        request = random.choice(REQUESTS[name])
        for _ in range(random.randint(1, 3)):
            request = corrupted(request)
        with plugin.connect(name) as connection:
            connection.settimeout(0.5)
            _exchange(connection, request)
    assert plugin.result("add", a=1) == 2
    status = plugin.status()
    assert (status["worker"]["pid"], status["phase"]) == (pid, "ready")


def _exchange(connection, request):
    try:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    except OSError:  # it hung up, or waits for more
        return
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer
    assert not answer.startswith(b"HTTP/1.1 5"), (request, answer)
