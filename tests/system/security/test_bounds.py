"""Everything that a caller can make the server hold is bounded, and health is answered under any load."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message
from support.harness import Harness
from uvicorn.server import ServerState

from orchestrator.api import http_protocol
from orchestrator.api.body import UploadPace, read_short_body
from orchestrator.api.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, BoundedProtocol
from orchestrator.sandbox.call import BodyError, Outcome

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(harness: Harness) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.client.base_url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(streams: Streams, sent: bytes) -> bytes:
    """Everything received until the server closes the connection, for at most three seconds."""
    reader, writer = streams
    received = b""
    try:
        writer.write(sent)
        await writer.drain()
        async with asyncio.timeout(3):
            while data := await reader.read(65536):
                received += data
    except (TimeoutError, ConnectionError):
        pass
    return received


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


REFUSED = [
    (b"GET /" + b"x" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\na: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\na: " + b"x" * 10_000_000, 431),
    (b"GET /healthz HTTP/1.1\r\n" + b"x" * 10_000_000, 431),
    (b"GET /" + b"x" * 10_000_000, 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v1/plugins/x/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), REFUSED, ids=range(len(REFUSED)))
async def test_an_oversized_or_invalid_request_is_refused_and_its_connection_closed(
    harness: Harness, sent: bytes, status: int
) -> None:
    """In the envelope; nothing more of it is read."""
    await harness.open()
    async with connection(harness) as streams:
        received = await answer(streams, sent)
    allowed = {status, 414} if status == 431 else {status}
    assert int(received.split()[1]) in allowed, received[:200]
    assert b'"ok":false' in received and b"connection: close" in received
    assert (await harness.client.get("/healthz")).status_code == 200


EARLY = [
    ("a foreign host", b"POST /v1/plugins/x/restart HTTP/1.1\r\nHost: elsewhere\r\n", 403),
    ("HTTP/1.0", b"POST /v1/plugins/x/restart HTTP/1.0\r\nHost: localhost\r\n", 404),
    ("a caller that closes", b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", 404),
    ("too large a head", b"POST / HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n", 431),
]


@pytest.mark.parametrize(("head", "status"), [case[1:] for case in EARLY], ids=[case[0] for case in EARLY])
async def test_an_answer_before_the_end_of_the_request_reaches_a_caller_that_sends_on(
    harness: Harness, head: bytes, status: int
) -> None:
    """A connection that is closed with bytes unread is reset, and what was answered is lost with it."""
    await harness.open()
    async with connection(harness) as (reader, writer):
        writer.write(head + b"Content-Length: 30000000\r\n\r\n")
        for _ in range(100):  # more than the kernel holds for who does not read
            writer.write(b"x" * 100_000)
            await asyncio.wait_for(writer.drain(), 10)
        received = await asyncio.wait_for(reader.read(), 10)
    assert int(received.split()[1]) == status
    assert received.endswith(b"}") and received.count(b"HTTP/1.1") == 1


async def test_a_caller_that_sends_without_end_after_its_answer_is_cut_off(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.5)
    await harness.open()
    async with connection(harness) as (reader, writer):
        writer.write(EARLY[0][1] + b"Content-Length: 30000000\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 403")
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await trickle(writer)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_an_upgrade_is_not_made_and_loses_no_body(harness: Harness, protocol: bytes) -> None:
    """A GET is answered without it; a POST is refused, before it waits for a body that is not read."""
    await harness.open()
    upgrade = b"Host: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    async with connection(harness) as streams:
        received = await answer(streams, b"GET /healthz HTTP/1.1\r\n" + upgrade + b"\r\n")
    assert received.startswith(b"HTTP/1.1 200")
    body = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    async with connection(harness) as streams:
        received = await answer(streams, b"POST /v1/plugins/x/tools/y/run HTTP/1.1\r\n" + upgrade + body)
    assert received.startswith(b"HTTP/1.1 400") and b"without `Upgrade`" in received


async def test_a_trailer_without_end_is_cut(harness: Harness) -> None:
    """It follows the body, whose size is limited elsewhere."""
    await harness.open()
    head = b"POST /v1/plugins/x/tools/y/run HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connection(harness) as streams:
        await answer(streams, head + b"2\r\n{}\r\n0\r\na: " + b"x" * 10_000_000)
        assert streams[0].at_eof() or streams[0].exception() is not None or streams[1].is_closing()


@pytest.mark.slow
async def test_pipelined_requests_are_bounded(harness: Harness) -> None:
    """Each is held until those before it are answered."""
    await harness.open()
    async with connection(harness) as streams:
        received = await answer(streams, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000)
    assert received.count(b"HTTP/1.1 200") <= http_protocol.MAX_PIPELINED + 1
    async with connection(harness) as streams:
        last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        received = await answer(streams, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 9 + last)
    assert received.count(b"HTTP/1.1 200") == 10


@pytest.mark.parametrize("start", [b"", b"\r\n", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    harness: Harness, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if a little of it arrives now and then."""
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    await harness.open()
    async with connection(harness) as (reader, writer):
        writer.write(start)
        async with asyncio.timeout(10):
            while not reader.at_eof():
                if start.startswith(b"GET"):
                    writer.write(b"x")
                with_end = asyncio.create_task(reader.read(65536))
                await asyncio.wait({with_end}, timeout=0.1)
                if not with_end.done():
                    with_end.cancel()
                    await asyncio.gather(with_end, return_exceptions=True)


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_is_cut_off(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes a little goes on."""
    monkeypatch.setattr(http_protocol, "STALLED_SECONDS", 1.0)
    harness.add("reader", tools={"much": lambda: "x" * 20_000_000})
    await harness.open()
    await harness.settled("reader")
    request = (
        b"POST /v1/plugins/reader/tools/much/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    async with connection(harness) as (reader, writer):
        writer.write(request)
        size = 0
        for _ in range(10):
            size += len(await reader.readexactly(100_000))
            await asyncio.sleep(0.1)
        assert size == 1_000_000
        await asyncio.sleep(3)
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                size += len(data)
        assert size < 20_000_000


@pytest.mark.slow
@pytest.mark.slow
async def test_an_idle_connection_outlasts_its_caller(harness: Harness) -> None:
    """httpx keeps one for five seconds. Closed at that moment, it would take a caller's next request with it."""
    address = (await harness.open()).base_url
    connections = set()
    async with httpx.AsyncClient(base_url=address, limits=httpx.Limits(keepalive_expiry=60), trust_env=False) as client:
        for pause in (0.0, 5.5):
            await asyncio.sleep(pause)
            response = await client.get("/healthz")
            connections.add(response.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(connections) == 1


async def test_idle_connections_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are silent, the next caller is answered."""
    monkeypatch.setattr(BoundedProtocol, "max_connections", 20)
    async with Harness(tmp_path) as harness:
        await harness.open()
        silent = [socket.create_connection(("127.0.0.1", harness.client.base_url.port)) for _ in range(200)]
        try:
            for _ in range(5):
                async with connection(harness) as streams:
                    request = b"GET /v1/plugins HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    received = await answer(streams, request)
                assert received.startswith(b"HTTP/1.1 200")
            closed = sum(is_closed(peer) for peer in silent)
            assert closed >= 180
        finally:
            for peer in silent:
                peer.close()


def is_closed(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.one_host
async def test_health_is_answered_at_the_maximum_of_requests(tmp_path: Path) -> None:
    """Others get 503 with Retry-After."""
    async with Harness(tmp_path, max_connections=16) as harness:
        go_on = asyncio.Event()
        harness.add("reader", tools={"read": go_on.wait}, concurrency=2, queue=100)
        client = await harness.open()
        await harness.settled("reader")
        runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(12)]
        await harness.until("reader", lambda health: health["in_flight"] + health["queued"] == 12)
        refused = await harness.run("reader", "read")
        assert (refused.status_code, refused.json()["error_type"]) == (503, "TooManyRequests")
        assert refused.headers["Retry-After"] == "1"
        for path in ("/v1/plugins", "/v1/plugins/reader/health", "/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
        go_on.set()
        assert {(await run).status_code for run in runs} == {200}
        assert (await harness.run("reader", "read")).status_code == 200


async def test_a_wait_has_a_bound(harness: Harness) -> None:
    """`wait` beyond ten minutes is refused."""
    harness.add("reader")
    client = await harness.open()
    for wait in ("601", "-1", "inf", "nan", "1e9"):
        assert (await client.post("/v1/plugins/reader/start", params={"wait": wait})).status_code == 422


async def empty(scope: object, receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
    """An application that answers 204."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


CONFIG = uvicorn.Config(empty, lifespan="off", log_config=None)


@given(st.binary(max_size=300))
async def test_no_bytes_break_the_server(sent: bytes) -> None:
    """They are refused, or more is awaited."""

    class Transport(asyncio.Transport):
        closing = False

        def get_extra_info(self, name: str, default: object = None) -> object:
            return default

        def is_closing(self) -> bool:
            return self.closing

        def close(self) -> None:
            self.closing = True

        abort = close

        def write(self, data: bytes) -> None:
            assert data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 204"))

        def pause_reading(self) -> None:
            pass

        resume_reading = write_eof = pause_reading

        def can_write_eof(self) -> bool:
            return True

        def get_write_buffer_size(self) -> int:
            return 0

    protocol = BoundedProtocol(CONFIG, ServerState(), {})
    protocol.connection_made(Transport())
    protocol.data_received(sent)
    protocol.connection_lost(None)
    await asyncio.gather(*protocol.tasks)


async def test_a_long_answer_before_the_end_of_the_request_may_be_read_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller is cut off when it has read none of it for as long as it may send on, and not while it reads."""
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.4)
    whole = 24_000_000  # more than both kernels hold

    async def long(scope: object, receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(whole)})

    loop, config = asyncio.get_running_loop(), uvicorn.Config(long, lifespan="off", log_config=None)
    server = await loop.create_server(lambda: BoundedProtocol(config, ServerState(), {}), "127.0.0.1", 0)
    async with server:
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
            caller.setblocking(False)
            await loop.sock_connect(caller, server.sockets[0].getsockname())
            await loop.sock_sendall(caller, b"POST / HTTP/1.0\r\nContent-Length: 30000000\r\n\r\nx")
            received, began = 0, loop.time()
            async with asyncio.timeout(30):
                while data := await loop.sock_recv(caller, 200_000):
                    received += len(data)
                    await asyncio.sleep(0.01)
    assert received > whole
    assert loop.time() - began > 2 * http_protocol.LINGER_SECONDS


async def test_a_short_body_that_trickles_is_refused() -> None:
    """None of its pauses is long: it would occupy one of the requests at once without end."""
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    pace = UploadPace(idle=1, min_rate=1000, grace=0.2)
    with pytest.raises(BodyError, match="1000 bytes a second") as refused:
        async with asyncio.timeout(5):
            await read_short_body({}, receive, pace)
    assert refused.value.outcome is Outcome.UPLOAD_STALLED
    assert sent < 100
