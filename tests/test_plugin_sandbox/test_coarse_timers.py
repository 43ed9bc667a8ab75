"""CoarseTimers: one timer of the loop for many times that as a rule do not pass."""

import asyncio
import random
from time import monotonic

import pytest

from orchestrator.sandbox.deadline import CoarseTimers, Deadline


async def test_each_is_called_once_its_time_has_passed_and_hardly_later() -> None:
    timers = CoarseTimers()
    chance = random.Random(3)
    called: dict[int, float] = {}
    due = {number: chance.random() * 0.2 for number in range(200)}
    began = monotonic()
    for number, seconds in due.items():
        timers.add(seconds, lambda number=number: called.setdefault(number, monotonic() - began))  # type: ignore[misc]
    await asyncio.sleep(0.3)
    assert called.keys() == due.keys()
    assert all(called[number] >= seconds for number, seconds in due.items())
    late = sorted(called[number] - seconds for number, seconds in due.items())
    assert late[len(late) // 2] < 0.05, late


async def test_one_that_is_removed_is_not_called_and_leaves_nothing_behind() -> None:
    timers = CoarseTimers()
    called: list[str] = []
    for _ in range(1000):
        tick = timers.add(60, lambda: called.append("late"))
        timers.remove(tick, lambda: None)  # of somebody else
    stays, goes = lambda: called.append("stays"), lambda: called.append("goes")
    timers.add(0.02, stays)
    timers.remove(timers.add(0.02, goes), goes)
    await asyncio.sleep(0.1)
    assert called == ["stays"]


async def test_what_is_added_and_removed_again_and_again_takes_no_memory() -> None:
    timers = CoarseTimers()

    def never() -> None:
        raise AssertionError

    for seconds in range(1, 500):
        timers.remove(timers.add(seconds, never), never)
    assert not timers._due


async def test_an_earlier_one_does_not_wait_for_one_that_was_there_before() -> None:
    timers, called = CoarseTimers(), asyncio.Event()
    timers.add(60, lambda: None)
    timers.add(0.01, called.set)
    async with asyncio.timeout(1):
        await called.wait()


async def test_a_deadline_and_a_cancellation_at_the_same_moment_are_told_apart() -> None:
    """Who cancels the task itself gets a cancellation, not the deadline's error."""
    timers = CoarseTimers()

    async def work() -> None:
        with Deadline(0.02, timers):
            await asyncio.sleep(0.01)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            while True:  # until both have come
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    if task.cancelling() > 1:
                        raise

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_that_has_passed_already_ends_what_is_inside() -> None:
    with pytest.raises(TimeoutError), Deadline(0.0):
        await asyncio.sleep(5)
