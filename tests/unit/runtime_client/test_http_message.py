"""HTTP/1.1 with a peer that may say anything: what is taken, what is refused, and that all of it has a bound."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_runtime.http.head import parse_request_head

from orchestrator.runtime_client.http_message import HttpResponse, MalformedResponseError, request_head, target

READ = 256 * 1024
"""What an event loop hands over at once, at the most."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = [
    OK + b"Content-Type: a/b\r\nContent-Length: 6\r\n\r\nfoobar",
    OK
    + b"Content-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n3;x=y\r\nbar\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n" + OK + b"content-type: a/b\r\n\r\nfoobar",
    b"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nfoobar",
]


def fed(*chunks: bytes, end: bool = False) -> HttpResponse:
    answer = HttpResponse()
    for chunk in chunks:
        answer.feed(chunk)
    if end:
        answer.end()
    return answer


def cut(data: bytes, where: list[int]) -> Iterator[bytes]:
    ends = sorted({position % len(data) for position in where} - {0})
    return (data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True))


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 200), max_size=200))
def test_an_answer_is_the_same_however_it_was_cut(whole: bytes, where: list[int]) -> None:
    """Each byte may come alone."""
    answer = fed(*cut(whole, where), end=True)
    assert (answer.status, answer.complete, answer.surplus) == (200, True, False)
    assert answer.fields[b"content-type"] == b"a/b"
    assert (answer.buffered, answer.take(), answer.buffered) == (6, b"foobar", 0)


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", True),
        (OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n", False),
        (CHUNKED + b"0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_whether_another_request_may_follow(data: bytes, reusable: bool) -> None:
    answer = fed(data)
    assert (answer.complete, answer.keeps_alive, answer.surplus) == (True, reusable, False)


@pytest.mark.parametrize(
    "more", [b"x", b"\0", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"]
)
@pytest.mark.parametrize("whole", [OK + b"Content-Length: 2\r\n\r\nab", CHUNKED + b"2\r\nab\r\n0\r\n\r\n"])
@pytest.mark.parametrize("apart", [False, True])
def test_what_follows_an_answer_does_not_belong_to_it(whole: bytes, more: bytes, apart: bool) -> None:
    """And it is known, so that no next answer is taken from it."""
    answer = fed(whole, more) if apart else fed(whole + more)
    assert (answer.complete, answer.surplus, answer.status, answer.take()) == (True, True, 200, b"ab")


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 2000 High\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        OK + b"Bad Name: x\r\n\r\n",
        OK + b": x\r\n\r\n",
        OK + b"".join(b"X-%d: y\r\n" % number for number in range(300)) + b"\r\n",
        OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedResponseError):
        fed(data)


@pytest.mark.parametrize("whole", WHOLE[:2])
def test_an_answer_that_ends_too_early_is_none(whole: bytes) -> None:
    """Wherever it was cut; one without a length ends where the connection does."""
    short = whole.removesuffix(b"\r\n")
    for end in range(len(short) - 1):
        with pytest.raises(MalformedResponseError):
            fed(short[:end], end=True)


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (OK + b"X: ", b"y" * 1000),
        (OK + b"X", b"y" * 1000),
        (OK[:-2], b"y" * 1000),
        (OK, b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED + b"1;", b"y" * 1000),
        (CHUNKED + b"1\r\nx\r\n0\r\nX", b"y" * 1000),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
    ],
)
def test_what_never_comes_to_a_body_is_cut(start: bytes, again: bytes) -> None:
    """Heads, interim answers, extensions of chunks, trailers: none is buffered or read without end."""
    answer = fed(start)
    read = 0
    with pytest.raises(MalformedResponseError):  # noqa: PT012 - when it comes is what this is about
        while read < 10 * READ:
            answer.feed(again)
            read += len(again)
    assert read < READ


pieces = st.lists(
    st.sampled_from([*WHOLE, OK, b"HTTP/1.1 ", b"200", b" ", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"3\r\nfoo\r\n",
                     b"\0", b":", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
                     b"foo"])
    | st.binary(max_size=30),
    max_size=12,
)  # fmt: skip


@given(pieces, st.booleans())
def test_any_bytes_are_an_answer_or_malformed(chunks: list[bytes], joined: bool) -> None:
    """No other error, and never more of a body than came."""
    answer = HttpResponse()
    try:
        for chunk in [b"".join(chunks)] if joined else chunks:
            answer.feed(chunk)
        answer.end()
    except MalformedResponseError:
        pass
    else:
        assert answer.complete and 200 <= answer.status <= 999
    assert answer.buffered == len(answer.take()) <= sum(map(len, chunks))


texts = st.text(st.characters(max_codepoint=255), max_size=40)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3), texts, texts, st.none() | st.integers(0, 10**12))
def test_a_request_is_read_as_it_was_meant_or_not_made(
    segments: list[str], query: str, value: str, length: int | None
) -> None:
    """By the runtime's own parser: nothing that a caller gives can end a line or start another request."""
    path = target(*segments, query=query)
    try:
        head = request_head("POST", path, {"X-Value": value}, length=length)
    except ValueError:
        assert set(value) & set("\r\n")
        return
    assert head.endswith(b"\r\n\r\n") and head.count(b"\r\n") == 5
    if "\0" in value:
        return  # which the runtime refuses
    read = parse_request_head(head[:-4])
    assert (read.method, read.length) == ("POST", length)
    assert read.headers["x-value"] == value.strip(" \t")
    assert read.path.count("/") == len(segments)
    assert set(read.headers) == {"host", "x-value", "transfer-encoding" if length is None else "content-length"}


def test_a_query_stays_as_the_caller_wrote_it() -> None:
    assert target("tools", "read", query="a=b%20c&d=%7B%7D+x") == "/tools/read?a=b%20c&d=%7B%7D+x"
    assert target("tools", "a/../b?c d") == "/tools/a%2F..%2Fb%3Fc%20d"
