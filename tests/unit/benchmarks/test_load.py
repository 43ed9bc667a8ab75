"""The load generator, against a server with known answers."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from benchmarks.load import LoadGenerator, Request, load_generator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def load() -> Iterator[LoadGenerator]:
    with load_generator() as generator:
        yield generator


@contextmanager
def server(path: Path, answer: Callable[[int], bytes], *, pause: float = 0) -> Iterator[str]:
    """Answer each request with `answer(number)`; an empty answer closes the connection."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    numbers = iter(range(1_000_000))

    def serve(caller: socket.socket) -> None:
        with caller, suppress(OSError):
            received = b""
            while data := caller.recv(1 << 20):
                received += data
                head, found, body = received.partition(b"\r\n\r\n")
                size = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0] or 0) if found else 1
                if not found or len(body) < size:
                    continue
                received = b""
                time.sleep(pause)
                text = answer(next(numbers))
                if not text:
                    return
                for piece in (text[:20], text[20:]):  # an answer may come in pieces
                    caller.sendall(piece)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"unix:{path}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_it_sends_the_number_of_requests(load: LoadGenerator, tmp_path: Path, answer: bytes) -> None:
    """Bodies of megabytes too, and answers in chunks."""
    with server(tmp_path / "s", lambda _: answer) as target:
        found = load.run(Request.post(target, "/x", b"x" * 3_000_000), connections=3, requests=20)
    assert (found.requests, found.bad, found.broken) == (20, 0, 0)
    assert found.bytes_in == 20 * len(answer)
    assert 0 < found.p50 <= found.p99 <= found.max


def test_it_ends_when_the_time_is_over(load: LoadGenerator, tmp_path: Path) -> None:
    with server(tmp_path / "s", lambda _: OK) as target:
        found = load.run(Request.get(target, "/x"), connections=2, seconds=0.3)
    assert found.requests > 10
    assert 0.25 < found.seconds < 2


def test_bad_answers_are_counted_and_refused(load: LoadGenerator, tmp_path: Path) -> None:
    bad = OK.replace(b"200 OK", b"503 No")
    with server(tmp_path / "s", lambda number: bad if number % 2 else OK) as target:
        found = load.run(Request.get(target, "/x"), requests=10, strict=False)
        with pytest.raises(AssertionError, match="5 of 10 answers were bad, the first a 503"):
            load.run(Request.get(target, "/x"), requests=10)
    assert (found.requests, found.bad, found.first_bad) == (10, 5, 503)


def test_broken_connections_are_counted(load: LoadGenerator, tmp_path: Path) -> None:
    with server(tmp_path / "s", lambda number: b"" if number == 3 else OK) as target:
        found = load.run(Request.get(target, "/x"), requests=10, strict=False)
    assert (found.requests, found.broken) == (9, 1)


def test_a_stall_counts_for_every_request_that_it_delays(load: LoadGenerator, tmp_path: Path) -> None:
    """With an interval a late request's time begins when it was due, not when it was sent."""
    with server(tmp_path / "s", lambda _: OK, pause=0.05) as target:
        found = load.begin(Request.get(target, "/x"), seconds=1, interval=0.01).result()
    assert found.max > 300_000, "each answer takes five intervals, so the last are far behind"
