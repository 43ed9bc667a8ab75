"""`cancel_when`: work that is cancelled when a signal is done."""

import asyncio

import pytest

from orchestrator.errors import CallerDisconnectedError, OrchestratorError, RunAbortedError
from orchestrator.sandbox.cancel_when import Signal, cancel_when


@pytest.mark.parametrize("error", [CallerDisconnectedError, RunAbortedError])
async def test_it_is_cancelled_as_soon_as_the_signal_is_done(error: type[OrchestratorError]) -> None:
    """The error and the sentence are those that were given, and its task goes on as one that was never cancelled."""
    done = Signal()
    asyncio.get_running_loop().call_later(0.01, done.set)
    with pytest.raises(error, match="the caller left"), cancel_when(done, error, "the caller left"):
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_nothing_starts_where_the_signal_is_done_already() -> None:
    """Not even up to where it first waits."""
    done = Signal()
    done.set()
    with pytest.raises(CallerDisconnectedError), cancel_when(done, CallerDisconnectedError):
        pytest.fail("it was started")


async def test_nothing_is_cancelled_once_it_has_ended() -> None:
    """Nor is what comes after it."""
    done = Signal()
    with cancel_when(done, CallerDisconnectedError):
        await asyncio.sleep(0)
    done.set()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("outer", [True, False])
async def test_of_two_the_one_whose_signal_is_done_raises(outer: bool) -> None:
    """Each its own error, wherever it stands."""
    disconnected, aborted = (Signal() for _ in range(2))
    asyncio.get_running_loop().call_later(0.01, (aborted if outer else disconnected).set)
    with (
        pytest.raises(RunAbortedError if outer else CallerDisconnectedError),
        cancel_when(aborted, RunAbortedError),
        cancel_when(disconnected, CallerDisconnectedError),
    ):
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_another_s_cancellation_stays_one() -> None:
    """It is not taken for the signal's, though that is done at the same moment."""
    done = Signal()

    async def work() -> None:
        with cancel_when(done, CallerDisconnectedError):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    done.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_its_own_error_comes_first() -> None:
    """It had failed already."""
    done = Signal()

    def fail() -> None:
        done.set()
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"), cancel_when(done, CallerDisconnectedError):
        fail()
    await asyncio.sleep(0.01)
