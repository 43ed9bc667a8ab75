"""Heads are read strictly: what could be understood in two ways is refused."""

import pytest
from plugin_runtime.http.head import BadHead, chunk, parse_request_head, response_head


def test_a_head_is_parsed():
    head = parse_request_head(b"POST /tools/a?x=1&y=2 HTTP/1.1\r\nHost: p\r\nX-Run-Id:  r1 \r\nContent-Length: 12")
    assert (head.method, head.path, head.query, head.length) == ("POST", "/tools/a", "x=1&y=2", 12)
    assert head.headers["x-run-id"] == "r1"
    assert head.keep_alive


@pytest.mark.parametrize(
    ("head", "keep_alive", "length", "expects"),
    [
        (b"GET / HTTP/1.1", True, 0, False),
        (b"GET / HTTP/1.0", False, 0, False),
        (b"GET / HTTP/1.1\r\nConnection: close", False, 0, False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True, 0, False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked", True, None, False),
        (b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1", True, 1, True),
    ],
)
def test_a_head_says_how_the_connection_goes_on(head, keep_alive, length, expects):
    parsed = parse_request_head(head)
    assert (parsed.keep_alive, parsed.length, parsed.expects_continue) == (keep_alive, length, expects)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /",
        b"GET / HTTP/2",
        b"GET  / HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nno colon",
        b"GET / HTTP/1.1\r\nna me: x",
        b"GET / HTTP/1.1\r\nHost : x",
        b"GET / HTTP/1.1\r\nA: x\r\n folded",
        b"GET / HTTP/1.1\r\nA: x\nB: y",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST / HTTP/1.1\r\nContent-Length: +1",
        b"POST / HTTP/1.1\r\nContent-Length: -1",
        b"POST / HTTP/1.1\r\nContent-Length: 1" + b"0" * 30,
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
    ],
)
def test_a_head_of_two_meanings_is_refused(head):
    with pytest.raises(BadHead):
        parse_request_head(head)


def test_an_answer_is_written():
    assert response_head(200, "text/plain", 5, keep_alive=True) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    )
    assert b"Connection: close\r\n" in response_head(404, "text/plain", 0, keep_alive=False)
    assert b"Transfer-Encoding: chunked\r\n" in response_head(200, "text/plain", None, keep_alive=True)
    assert chunk(b"x" * 16) == b"10\r\n" + b"x" * 16 + b"\r\n"
    assert chunk(b"") == b"0\r\n\r\n"
