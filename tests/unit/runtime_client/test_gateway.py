"""The two ends of the channel over TCP, gateway and connector, against each other; no engine needed."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from plugin_runtime.gateway import Gateway

from orchestrator.containers.docker_engine.capabilities import shares_sockets
from orchestrator.containers.endpoint import Endpoint, TcpEndpoint, UnixEndpoint, lay_out_token
from orchestrator.containers.spec import EngineInfo
from orchestrator.errors import ChannelError
from orchestrator.runtime_client.client import RuntimeChannel

Plugin = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
STATUS = b'{"phase": "ready"}'


async def statuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A plugin that answers every request by its status, on one connection."""
    while await reader.read(65536):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(STATUS), STATUS))
    writer.close()


@asynccontextmanager
async def gateway(sockets: dict[str, Plugin], *, token: str | None = None) -> AsyncIterator[TcpEndpoint]:
    """Before a plugin with these sockets; the endpoint has its token, or the one given."""
    with tempfile.TemporaryDirectory() as folder:
        right = lay_out_token(Path(folder)).read_text()
        servers = [await asyncio.start_unix_server(plugin, f"{folder}/{name}") for name, plugin in sockets.items()]
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        task = asyncio.create_task(Gateway(right.encode(), folder).serve(listener))
        try:
            yield TcpEndpoint("127.0.0.1", listener.getsockname()[1], token or right)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            listener.close()
            for server in servers:
                server.close()


@asynccontextmanager
async def channel(endpoint: Endpoint) -> AsyncIterator[RuntimeChannel]:
    made = RuntimeChannel(endpoint)
    try:
        yield made
    finally:
        await made.close()
        await asyncio.sleep(0.05)  # for the gateway to see it


async def test_a_status_comes_through_and_connections_are_reused() -> None:
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await statuses(reader, writer)

    async with gateway({"control.sock": counted}) as endpoint, channel(endpoint) as way:
        for _ in range(5):
            assert (await way.status()).phase == "ready"
    assert connections == 1


async def test_a_wrong_token_is_refused_before_the_plugin_hears_of_it() -> None:
    async with gateway({"control.sock": statuses}, token="0" * 64) as endpoint, channel(endpoint) as way:
        with pytest.raises(ChannelError, match="401"):
            await way.status()


async def test_a_socket_that_is_not_there_is_waited_for_and_then_an_error() -> None:
    async with gateway({}) as endpoint, channel(endpoint) as way:
        with pytest.raises(ChannelError, match="503"):
            await way.status()


async def test_a_plugin_sees_nothing_of_the_token() -> None:
    seen = bytearray()

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(STATUS), STATUS))
        writer.close()

    async with gateway({"control.sock": listening}) as endpoint, channel(endpoint) as way:
        await way.status()
    assert seen.startswith(b"GET /status ")
    assert endpoint.token.encode() not in seen
    assert b"authorization" not in seen.lower()
    assert endpoint.token not in repr(endpoint)


async def test_hanging_up_stops_a_stream_and_waits_for_its_end() -> None:
    """The tool notices at its next line, and takes a while to come to its end."""
    ended = asyncio.Event()

    async def streaming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        duplicate = os.dup(writer.get_extra_info("socket").fileno())  # asyncio closes its own at the first failure
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"3\r\n{}\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            await asyncio.sleep(0.3)
            ended.set()
            os.close(duplicate)

    async with gateway({"tools.sock": streaming}) as endpoint, channel(endpoint) as way:
        call = way.call("count", run_id="1", content_type="application/json", query="", body=b"{}")
        async with call as response:
            assert (await anext(response.lines()))[0] == b"{}"
            assert not ended.is_set()
            async with asyncio.timeout(5):
                await response.hang_up()
            assert ended.is_set()


@pytest.mark.parametrize("through_gateway", [True, False], ids=["gateway", "unix"])
async def test_hanging_up_returns_though_the_stream_had_just_ended(through_gateway: bool, tmp_path: Path) -> None:
    """The plugin has sent all of its answer then, and waits for the next request on the connection."""

    async def ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3\r\n{}\n\r\n" * 2 + b"0\r\n\r\n")
        await reader.readexactly(2)
        while b"connection: close" not in head.lower():
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def hangs_up(way: RuntimeChannel) -> None:
        call = way.call("count", run_id="1", content_type="application/json", query="", body=b"{}")
        async with call as response:
            assert (await anext(response.lines()))[0] == b"{}"
            async with asyncio.timeout(5):
                await response.hang_up()

    if through_gateway:
        async with gateway({"tools.sock": ending}) as endpoint, channel(endpoint) as way:
            await hangs_up(way)
        return
    async with (
        await asyncio.start_unix_server(ending, tmp_path / "tools.sock"),
        channel(UnixEndpoint(tmp_path)) as way,
    ):
        await hangs_up(way)


async def test_an_answer_arrives_though_its_request_was_not_read_to_the_end() -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        writer.write_eof()
        await asyncio.sleep(0.1)
        writer.close()

    async with gateway({"tools.sock": refusing}) as endpoint, channel(endpoint) as way:
        body = bytes(200 * 1024)
        async with way.call("save", run_id="1", content_type="image/png", query="", body=body) as response:
            assert response.status == 413
            assert await response.read(10) == b"{}"


@pytest.mark.parametrize(
    ("system", "kernel", "inside", "cross"),
    [
        ("Debian GNU/Linux 12", "6.1.0-42", False, True),
        ("Debian GNU/Linux 12", "", False, True),
        ("Alpine Linux v3.22", "6.8.0-100", False, False),  # a virtual machine, by another kernel
        ("Docker Desktop", "6.1.0-42", False, False),
        ("Docker Desktop", "6.12.0-linuxkit", True, True),  # beside the plugins, whatever is around
    ],
)
def test_how_the_channel_is_chosen(
    system: str, kernel: str, inside: bool, cross: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.1.0-42")
    info = EngineInfo("28", system, "overlay2", "2", (), rootless=False, selinux=False, kernel=kernel)
    assert shares_sockets(info, inside=inside) is cross
