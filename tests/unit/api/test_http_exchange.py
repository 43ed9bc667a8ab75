"""A response on its connection: what is one packet, what is refused, how long the connection stays open."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from orchestrator.api.body import WHOLE_BODY
from orchestrator.api.http_protocol import BoundedProtocol
from orchestrator.api.problems import EnvelopeResponse

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Transport(asyncio.Transport):
    """Keeps what is written, packet by packet."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: list[bytes] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.packets.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.packets.append(b"".join(list_of_data))

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def served(app: App) -> tuple[BoundedProtocol, Transport]:
    protocol = BoundedProtocol(uvicorn.Config(app, lifespan="off", log_config=None), ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


async def answered(app: App, sent: bytes = GET) -> Transport:
    """What the application answers to a request."""
    protocol, transport = served(app)
    protocol.data_received(sent)
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(None)
    return transport


def responding(*messages: Message) -> App:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


@pytest.mark.parametrize("size", [2, 200_000])
async def test_a_response_of_known_length_is_one_packet(size: int) -> None:
    """Its caller is woken once."""
    transport = await answered(responding(start((b"Content-Length", b"%d" % size)), body(b"x" * size)))
    (packet,) = transport.packets
    head, _, content = packet.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\ncontent-length: " in head
    assert content == b"x" * size


async def test_the_head_of_a_stream_does_not_wait_for_its_first_chunk() -> None:
    transport = await answered(responding(start(), body(b"one", more=True), body(b"")))
    assert [packet.partition(b"\r\n\r\n")[0].startswith(b"HTTP/1.1 200") for packet in transport.packets[:1]] == [True]
    assert transport.packets[1:] == [b"3\r\none\r\n", b"0\r\n\r\n"]


async def test_a_response_without_a_body_is_its_head() -> None:
    transport = await answered(responding(start(status=204), body(b"")))
    assert b"".join(transport.packets).endswith(b"\r\n\r\n") and b"chunked" not in transport.packets[0]


async def test_the_answer_to_head_has_the_length_and_not_the_body() -> None:
    transport = await answered(responding(start((b"content-length", b"2")), body(b"ok")), GET.replace(b"GET", b"HEAD"))
    assert b"content-length: 2\r\n" in transport.packets[0] and transport.packets[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "messages",
    [
        [body(b"")],
        [start(), start()],
        [start((b"content-length", b"1")), body(b"ok")],
        [start((b"content-length", b"3")), body(b"ok")],
        [start((b"content-length", b"0")), body(b""), body(b"")],
        [start((b"a b", b"c"))],
        [start((b"a", b"b\r\nc: d"))],
    ],
)
async def test_a_response_that_is_none_of_http_is_a_defect(messages: list[Message]) -> None:
    """The application is told, and the caller never gets another response's bytes."""
    raised: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await responding(*messages)(scope, receive, send)
        except RuntimeError as error:
            raised.append(error)
            raise

    transport = await answered(app)
    assert len(raised) == 1
    assert b"".join(transport.packets).count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize("size", [2, 200_000])
async def test_an_envelope_is_one_packet_as_the_same_messages_are(size: int) -> None:
    """It goes to its connection in one step, and by messages where something stands between."""
    response = EnvelopeResponse(b"x" * size, 404, {"x-run-id": "1"})

    async def by_messages(scope: Scope, receive: Receive, send: Send) -> None:
        async def passed_on(message: Message) -> None:
            await send(message)

        await response(scope, receive, passed_on)

    whole, pieces = await answered(response), await answered(by_messages)
    assert whole.packets == pieces.packets
    assert len(whole.packets) == 1


@pytest.mark.parametrize(
    ("sent", "headers", "last"),
    [
        (GET, {}, False),
        (GET.replace(b"HTTP/1.1", b"HTTP/1.0"), {}, True),
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), {}, True),
        (GET, {"connection": "close"}, True),
    ],
)
async def test_the_last_answer_of_a_connection_says_so_once(sent: bytes, headers: dict[str, str], last: bool) -> None:
    protocol, transport = served(EnvelopeResponse(b"{}", 200, headers))
    protocol.data_received(sent)
    await asyncio.gather(*protocol.tasks)
    assert transport.packets[0].lower().count(b"\r\nconnection: close\r\n") == last
    assert transport.closing is last
    protocol.connection_lost(None)


async def test_an_envelope_is_answered_to_head_without_its_body() -> None:
    transport = await answered(EnvelopeResponse(b"{}", 200), GET.replace(b"GET", b"HEAD"))
    assert b"content-length: 2\r\n" in transport.packets[0] and transport.packets[0].endswith(b"\r\n\r\n")


async def test_an_envelope_cannot_have_a_header_more_than_it_was_given() -> None:
    transport = await answered(EnvelopeResponse(b"{}", 200, {"x-run-id": "1\r\nx-other: 2"}))
    assert b"x-other" not in b"".join(transport.packets)
    assert b"".join(transport.packets).startswith(b"HTTP/1.1 500 ")


async def test_a_short_body_that_comes_with_its_head_is_in_the_scope() -> None:
    """One that comes later, if only in part, is received."""
    found: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if (whole := scope.get("extensions", {}).get(WHOLE_BODY)) is None:
            while (message := await receive()).get("more_body"):
                found.append(message["body"])
            found.append(message["body"])
        else:
            found.append([whole])
        await responding(start(status=204), body(b""))(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    await answered(app, head + b"abcd")
    protocol, _ = served(app)
    protocol.data_received(head + b"ab")
    while len(found) < 2:
        await asyncio.sleep(0)
    protocol.data_received(b"cd")
    await asyncio.gather(*protocol.tasks)
    assert found == [[b"abcd"], b"ab", b"cd"]


async def test_an_idle_connection_is_closed_after_its_time_and_a_busy_one_is_not() -> None:
    """However many requests it has had, and however long the last one took."""
    release = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await release.wait()
        await responding(start(status=204), body(b""))(scope, receive, send)

    protocol, transport = served(app)
    timers = set()
    for _ in range(3):
        protocol.data_received(GET)
        await asyncio.gather(*protocol.tasks)
        timers.add(protocol.timeout_keep_alive_task)
    assert len(timers) == 1 and not transport.closing
    protocol.timeout_keep_alive_task.cancel()
    protocol.timeout_keep_alive, protocol.timeout_keep_alive_task = 0.05, None  # type: ignore[assignment]
    protocol.data_received(GET)
    protocol.data_received(GET.replace(b"/ ", b"/slow "))
    await asyncio.sleep(0.15)
    assert not transport.closing
    release.set()
    await asyncio.gather(*protocol.tasks)
    async with asyncio.timeout(5):
        while not transport.closing:
            await asyncio.sleep(0.01)
