"""What a run reports, as notifications: growing, bounded, and never in the way of its tool."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.harness import eventually

from orchestrator.mcp import progress
from orchestrator.mcp.backend import MAX_CONTENT, BackendError
from orchestrator.mcp.progress import RunReport

Sent = list[tuple[float, float | None, str]]


def report(sent: Sent, *, wanted: bool = True, standing: str = "running") -> RunReport:
    async def send(done: float, total: float | None, message: str) -> None:
        sent.append((done, total, message))

    async def stands(_: str) -> str:
        if not standing:
            raise BackendError("no answer")
        return standing

    return RunReport(send, stands, wanted=wanted)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=50))
def test_progress_always_grows_and_says_the_fraction(fractions: list[float | None]) -> None:
    """As MCP wants it, whatever a tool reports: also backwards, and unknown."""
    sent: Sent = []

    async def run() -> None:
        async with report(sent) as told:
            for fraction in fractions:
                told.progress(fraction, "")

    asyncio.run(run())
    assert [done for done, _, _ in sent] == [float(n + 1) for n in range(len(fractions))]
    known = None
    for fraction, (done, total, _) in zip(fractions, sent, strict=True):
        known = known if fraction is None else fraction
        if known is not None and known > 0.001:
            assert total is not None and abs(done / total - known) < 0.01
        elif not known:
            assert total is None


async def test_a_slow_client_is_told_the_newest_and_its_tool_does_not_wait() -> None:
    """What waits for it is bounded; each message too."""
    free = asyncio.Event()
    sent: Sent = []

    async def send(done: float, total: float | None, message: str) -> None:
        await free.wait()
        sent.append((done, total, message))

    async def stands(_: str) -> str:
        return ""

    async with RunReport(send, stands, wanted=True) as told:
        for number in range(5000):
            told.item("x" * 5000, 1)
            if number % 100 == 0:
                await asyncio.sleep(0)
        free.set()
    assert len(sent) <= progress._MAX_WAITING + 1
    assert sent[-1][0] == 5000
    assert max(len(message) for _, _, message in sent) == 1000


async def test_a_client_that_reads_nothing_does_not_hold_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LAST_SECONDS", 0.05)

    async def send(*_: Any) -> None:
        await asyncio.Event().wait()

    async def stands(_: str) -> str:
        return ""

    async with asyncio.timeout(5):
        async with RunReport(send, stands, wanted=True) as told:
            told.progress(0.5, "half")


async def test_silence_is_broken_by_what_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its beginning; where that cannot be told, nothing is."""
    monkeypatch.setattr(progress, "SILENCE", 0.02)
    sent: Sent = []
    async with report(sent) as told:
        await asyncio.sleep(0.1)
        assert sent == []
        told.begun("1")
        await eventually(lambda: len(sent) > 1, "two notifications")
    assert {message for _, _, message in sent} == {"running"}
    assert len(sent) < 200  # no oftener than after each silence
    nothing: Sent = []
    async with report(nothing, standing="") as told:
        told.begun("1")
        await asyncio.sleep(0.1)
    assert nothing == []


async def test_items_are_collected_up_to_the_bound() -> None:
    """Also for a client that wants no notifications."""
    sent: Sent = []
    async with report(sent, wanted=False) as told:
        told.item({"n": 1}, 7)
        told.item(2, 1)
        assert (told.items, told.too_large) == ([{"n": 1}, 2], False)
        told.item("x", MAX_CONTENT)
        told.item(3, 1)
    assert (told.items, told.too_large, sent) == ([{"n": 1}, 2], True, [])


async def test_a_run_that_is_left_leaves_no_task() -> None:
    before = asyncio.all_tasks()

    async def run() -> None:
        async with report([]) as told:
            told.progress(0.5, "half")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await run()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
