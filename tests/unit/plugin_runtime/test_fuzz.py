"""The runtime's sockets fed with garbage: it answers or hangs up, and serves the next caller."""

import gzip
import random
import socket
import zlib

import pytest
from support.mutations import corrupted

pytestmark = pytest.mark.slow

SOURCE = """
    import dataclasses
    from plugin_runtime import tool

    @dataclasses.dataclass
    class Box:
        x: int
        many: list[bytes] = dataclasses.field(default_factory=list)

        def __post_init__(self):
            assert self.x < 3
            {2: "two", 1: "one"}[self.x]

    class Plugin:
        def validate(self): pass

        @tool
        def add(self, a: int) -> int:
            return a + 1

        @tool
        def box(self, box: Box, data: bytes = b"") -> int:
            return box.x

        @tool
        def length(self, data: bytes) -> int:
            return len(data)
"""
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="data"; filename="f"\r\n\r\nabc\r\n'
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
)
COMPRESSED = gzip.compress(b'{"box": {"x": 2.0, "many": ["aGk"]}, "data": "data:;base64,aGk="}')
DEFLATED = zlib.compress(b"abc" * 100)
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
        (
            b"POST /tools/box HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(COMPRESSED), COMPRESSED)
        ),
        (
            b"POST /tools/length HTTP/1.1\r\nContent-Type: audio/mpeg\r\nContent-Encoding: deflate\r\n"
            b"Content-Disposition: x; filename*=UTF-8''%%41.nii.gz\r\nContent-Length: %d\r\n\r\n%s"
            % (len(DEFLATED), DEFLATED)
        ),
        (
            b"POST /tools/box HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 29\r\n\r\n"
            b"data=aGk%3D&box=%7B%22x%22:1}"
        ),
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
