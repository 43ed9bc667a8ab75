"""Events of several hosts for one reader: whatever it has, its cursor says, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from orchestrator.access.principal import ANYONE
from orchestrator.api.concealment import Concealment
from orchestrator.front.cursors import Cursor
from orchestrator.front.event_stream import EventStream
from orchestrator.front.hosts import Hosts

Script = Callable[[int], AsyncIterator[bytes]]
"""The chunks of a host's stream, by the position that it was asked for."""


class ScriptedHost:
    """A link whose streams are scripted; it breaks off where its script ends."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.status = 200
        self.asked: list[int] = []
        self._script = script
        self._position = 0

    async def stream(self, _path: str, headers: tuple[tuple[bytes, bytes], ...], _caller: object) -> "ScriptedHost":
        self._position = int(dict(headers)[b"last-event-id"])
        self.asked.append(self._position)
        return self

    def chunks(self) -> AsyncIterator[bytes]:
        return self._script(self._position)

    async def close(self) -> None:
        pass


class ScriptedHosts:
    def __init__(self, **scripts: Script) -> None:
        self.links = {name: ScriptedHost(name, script) for name, script in scripts.items()}
        self.names = list(scripts)

    def link(self, host: str) -> ScriptedHost:
        return self.links[host]


def event(number: int) -> bytes:
    return b'id: %d\nevent: lifecycle\ndata: {"n":%d}\n\n' % (number, number)


async def until_the_end_of_the_test() -> None:
    await asyncio.Event().wait()


def read(hosts: ScriptedHosts) -> AsyncIterator[bytes]:
    """What a reader gets that has nothing of any host yet."""
    stream = EventStream(
        cast(Hosts, hosts),
        ANYONE,
        shown=cast(Concealment, None),
        path="/v1/events",
        plugin=None,
        cursor=Cursor(dict.fromkeys(hosts.names, 0)),
    )
    return stream.frames(health=False)


def positions(frame: bytes) -> tuple[str, dict[str, int]]:
    """The host of a frame, and its cursor."""
    data: dict[str, Any] = msgspec.json.decode(frame.partition(b"data: ")[2])
    found = dict(part.rsplit(":", 1) for part in data["cursor"].split(","))
    return data["host"], {host: int(number) for host, number in found.items()}


async def test_a_cursor_says_what_the_reader_has_and_no_more() -> None:
    """Also where one host's events wait because the reader is slow, and another's overtake them: a reader that leaves
    then, and comes back with its cursor, misses none.
    """
    goes_on = asyncio.Event()

    async def many(_position: int) -> AsyncIterator[bytes]:
        yield b"".join(map(event, range(1, 151)))
        await until_the_end_of_the_test()

    async def late(_position: int) -> AsyncIterator[bytes]:
        await goes_on.wait()
        yield event(1) + event(2)
        await until_the_end_of_the_test()

    frames = read(ScriptedHosts(a=many, b=late))
    assert (await anext(frames)).startswith(b"retry:")
    has, order = {"a": 0, "b": 0}, []
    async with asyncio.timeout(10):
        for taken in range(152):
            if taken == 1:
                await asyncio.sleep(0.05)  # the backlog is full
                goes_on.set()
            host, cursor = positions(await anext(frames))
            has[host] += 1
            order.append(host)
            assert cursor == has
    await cast(Any, frames).aclose()
    assert order.index("b") < 150, "it has overtaken some"


@pytest.mark.parametrize(
    "broken", [b"", b'id: 9\nevent: lifecycle\ndata: {"n\n\n', b"id: 9\nevent: lifecycle\ndata: 7\n\n"]
)
async def test_a_stream_that_breaks_goes_on_behind_what_was_read(
    monkeypatch: pytest.MonkeyPatch, broken: bytes
) -> None:
    """Not behind what the reader has taken, or it would get events twice; whatever broke it."""
    monkeypatch.setattr("orchestrator.front.event_stream._PAUSE", 0.01)

    async def breaks(position: int) -> AsyncIterator[bytes]:
        yield event(position + 1) + event(position + 2) + (broken if position == 0 else b"")
        if position:
            await until_the_end_of_the_test()

    hosts = ScriptedHosts(a=breaks, b=breaks)
    frames = read(hosts)
    await anext(frames)
    first = [positions(await anext(frames))]
    async with asyncio.timeout(10):
        while hosts.links["a"].asked != [0, 2]:
            await asyncio.sleep(0.01)
        rest = [positions(await anext(frames)) for _ in range(7)]
    await cast(Any, frames).aclose()
    for name in "ab":
        assert [cursor[name] for host, cursor in first + rest if host == name] == [1, 2, 3, 4]
