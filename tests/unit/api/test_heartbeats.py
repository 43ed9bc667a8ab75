"""A source with heartbeats: all of it, in its order, and closed when nobody reads any more."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from orchestrator.api import sse


async def counting(up_to: int, *, error: Exception | None = None) -> AsyncGenerator[str, None]:
    for number in range(up_to):
        yield str(number)
    if error is not None:
        raise error


async def test_everything_passes_in_its_order() -> None:
    assert [chunk async for chunk in sse.beating(counting(100), "-")] == [str(number) for number in range(100)]


async def test_an_error_comes_after_what_was_before_it() -> None:
    chunks = sse.beating(counting(20, error=LookupError("lost")), "-")
    assert [await anext(chunks) for _ in range(20)] == [str(number) for number in range(20)]
    with pytest.raises(LookupError, match="lost"):
        await anext(chunks)


@pytest.mark.parametrize("after", [0, 1, 30])
async def test_its_source_is_closed_with_it(after: int) -> None:
    """Wherever that is: while it waits for the source, and while the source waits for its reader."""
    closed = asyncio.Event()
    made = 0

    async def source() -> AsyncGenerator[str, None]:
        nonlocal made
        try:
            while after or made == 0:
                made += 1
                yield "x"
            await asyncio.Event().wait()
        finally:
            closed.set()

    chunks = sse.beating(source(), "-")
    for _ in range(after + 1):
        await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert made < 100  # it waited for its reader


async def test_silence_does_not_end_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.01)
    heard = asyncio.Event()

    async def source() -> AsyncGenerator[str, None]:
        yield "first"
        await heard.wait()
        yield "last"

    chunks = []
    async for chunk in sse.beating(source(), "-"):
        chunks.append(chunk)
        if chunks.count("-") == 3:
            heard.set()
    assert [chunk for chunk in chunks if chunk != "-"] == ["first", "last"]
