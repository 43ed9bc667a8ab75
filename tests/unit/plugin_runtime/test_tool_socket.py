"""HTTP/1.1 on the tool socket: persistent connections, bodies in pieces, and what is no HTTP."""

import json

import pytest
from unit.plugin_runtime.called_plugin import SOURCE


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE, max_result="4096").ready()


def exchange(runtime, data, end=b"}"):
    """Raw bytes in, bytes out up to `end`."""
    with runtime.connect("tools") as connection:
        connection.sendall(data)
        answer = b""
        while not answer.endswith(end):
            part = connection.recv(65536)
            if not part:
                break
            answer += part
        return answer


def test_a_connection_persists_for_many_calls(runtime):
    body = b'{"a":1}'
    call = b"POST /tools/add HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n" + body
    with runtime.connect("tools") as connection:
        for _ in range(3):
            connection.sendall(call)
            assert b'"result":3' in connection.recv(65536)
        connection.sendall(call + call)  # pipelined, in one piece
        answers = b""
        while answers.count(b'"result":3') < 2:
            answers += connection.recv(65536)


def test_a_caller_that_waits_for_continue_gets_it(runtime):
    with runtime.connect("tools") as connection:
        head = b"POST /tools/add HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 7\r\n"
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"a":1}')
        assert b'"result":3' in connection.recv(65536)


def test_chunks_in_odd_pieces_are_one_body(runtime):
    head = b"POST /tools/add HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'3;ext=1\r\n{"a\r\n4\r\n":1}\r\n0\r\nTrailer: x\r\n\r\n'
    assert b'"result":3' in exchange(runtime, head + body)


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"POST /tools/add HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST /tools/add HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /tools/add HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n",
    ],
    ids=["nonsense", "length", "long head", "chunk length", "chunk end"],
)
def test_what_is_no_http_is_a_bad_request_and_ends_the_connection(runtime, data):
    answer = exchange(runtime, data, end=b"\0")  # read until the other end closes
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["kind"] == "bad_request"
    assert runtime.result("add", a=1) == 3


def test_a_caller_that_hangs_up_in_the_middle_harms_nobody(runtime):
    with runtime.connect("tools") as connection:
        connection.sendall(b"POST /tools/add HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
    assert runtime.result("add", a=1) == 3
