"""Work that is broken off when nobody wants it any more."""

import asyncio

import pytest

from orchestrator.sandbox.cancel_when import CallerGoneError, cancel_when


async def test_it_is_broken_off_as_soon_as_nobody_wants_it() -> None:
    """With the sentence it was given, and its task goes on as one that nobody has cancelled."""
    gone = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, gone.set_result, None)
    with pytest.raises(CallerGoneError, match="the caller left"), cancel_when(gone, "the caller left"):
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_nobody_wants_from_the_first_is_not_begun() -> None:
    """Not even up to where it first waits."""
    gone = asyncio.get_running_loop().create_future()
    gone.set_result(None)
    with pytest.raises(CallerGoneError), cancel_when(gone, "the caller left"):
        pytest.fail("it was begun")


async def test_it_is_left_alone_once_it_has_ended() -> None:
    """Nobody breaks off what comes after it."""
    gone = asyncio.get_running_loop().create_future()
    with cancel_when(gone, "the caller left"):
        await asyncio.sleep(0)
    gone.set_result(None)
    await asyncio.sleep(0.01)


async def test_another_s_cancellation_stays_one() -> None:
    """It is not taken for the caller's leaving, though the caller leaves at the same moment."""
    gone = asyncio.get_running_loop().create_future()

    async def work() -> None:
        with cancel_when(gone, "the caller left"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    gone.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_its_own_error_comes_before_the_caller_s_leaving() -> None:
    """It had failed already."""
    gone = asyncio.get_running_loop().create_future()

    def fail() -> None:
        gone.set_result(None)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"), cancel_when(gone, "the caller left"):
        fail()
    await asyncio.sleep(0.01)
