"""StartSlots: how many containers start at once, and fewer while plugins are called."""

import asyncio
import random

from orchestrator.supervisor.deps import StartSlots


class Starts:
    """Starts of containers that wait until the test lets them end."""

    def __init__(self, limit: int = 4, cores: int = 4) -> None:
        self.called = False
        self.slots = StartSlots(limit, lambda: self.called, cores)
        self.under_way: list[int] = []
        self.begun: list[int] = []
        self.most = 0
        self.over = asyncio.Event()

    async def start(self, number: int, seconds: float | None = None) -> None:
        async with self.slots:
            self.begun.append(number)
            self.under_way.append(number)
            self.most = max(self.most, len(self.under_way))
            try:
                await (self.over.wait() if seconds is None else asyncio.sleep(seconds))
            finally:
                self.under_way.remove(number)


async def begun(starts: Starts, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(starts.start(number)) for number in range(count)]
    await asyncio.sleep(0.01)
    return tasks


async def test_as_many_start_at_once_as_the_setting_says() -> None:
    starts = Starts()
    tasks = await begun(starts, 6)
    assert starts.under_way == [0, 1, 2, 3]
    starts.over.set()
    await asyncio.gather(*tasks)
    assert starts.begun == [0, 1, 2, 3, 4, 5]


async def test_half_of_the_cores_are_left_to_plugins_that_are_called() -> None:
    starts = Starts()
    starts.called = True
    tasks = await begun(starts, 6)
    assert starts.under_way == [0, 1]
    starts.over.set()
    await asyncio.gather(*tasks)
    assert (starts.begun, starts.most) == ([0, 1, 2, 3, 4, 5], 2)


async def test_one_starts_on_a_single_core_and_however_low_the_setting_is() -> None:
    for limit, cores in ((4, 1), (1, 8)):
        starts = Starts(limit, cores)
        starts.called = True
        tasks = await begun(starts, 3)
        assert starts.under_way == [0]
        starts.over.set()
        await asyncio.gather(*tasks)


async def test_when_the_calls_end_the_next_end_lets_all_that_may_start() -> None:
    starts = Starts(limit=3, cores=2)
    starts.called = True
    tasks = [asyncio.create_task(starts.start(0, 0.02)), *await begun(starts, 4)]
    starts.called = False
    await tasks[0]
    await asyncio.sleep(0)
    assert len(starts.under_way) == 3
    starts.over.set()
    await asyncio.gather(*tasks)


async def test_one_that_is_cancelled_takes_no_slot_with_it() -> None:
    """At any moment: while it waits, as its slot is given to it, and after."""
    chance = random.Random(7)
    starts = Starts(limit=2, cores=2)
    tasks = []
    for number in range(200):
        starts.called = chance.random() < 0.5
        tasks.append(asyncio.create_task(starts.start(number, chance.random() * 0.004)))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.002)
            chance.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert starts.most <= 2
    starts.called = False
    more = await begun(starts, 3)
    assert len(starts.under_way) == 2
    starts.over.set()
    await asyncio.gather(*more)
