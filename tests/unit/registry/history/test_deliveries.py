"""Deliveries of webhooks: stored with the writes that they come of, each once, whatever happens in between."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from unit.registry.history.samples import START, accepted, failed_event, finished, rows

from orchestrator.registry.history import DeliveryState, HistoryStore, NewDelivery, RunState
from orchestrator.registry.history import deliveries as table
from orchestrator.registry.history.writes import DeliveryWrite, EventWrite, RunWrite, Write


class Outbox:
    """Every end of a run and every event, for each webhook."""

    def __init__(self, *webhooks: str) -> None:
        self.webhooks = webhooks or ("hook",)
        self.notified = 0

    def deliveries(self, write: Write) -> Sequence[NewDelivery]:
        if isinstance(write, RunWrite) and (write.state or write.run.state) is not RunState.IN_FLIGHT:
            plugin, body = write.run.plugin, write.run.run_id
        elif isinstance(write, EventWrite):
            plugin, body = write.event.plugin, f"event {write.event.id}"
        else:
            return ()
        return [NewDelivery(name, plugin, "test", body) for name in self.webhooks]

    def stored(self) -> None:
        self.notified += 1


@asynccontextmanager
async def opened(folder: Path, outbox: Outbox | None = None) -> AsyncIterator[HistoryStore]:
    store = HistoryStore(
        folder, max_age=timedelta(days=30), max_bytes=64 * 1024**2, outbox=Outbox() if outbox is None else outbox
    )
    await store.restore()
    try:
        yield store
    finally:
        await store.close()


async def bodies(store: HistoryStore, webhook: str = "hook") -> list[str]:
    return [each.body for each in await store.deliveries(webhook)][::-1]


async def test_each_end_is_stored_once_in_the_order_of_the_writes(tmp_path: Path) -> None:
    outbox = Outbox()
    async with opened(tmp_path, outbox) as store:
        first, second = finished(), finished()
        store.run_accepted(first)
        store.run_finished(first, success=True)
        store.event(failed_event(1))
        store.run_finished(second, success=False)
        assert await bodies(store) == [first.run_id, "event 1", second.run_id]
        assert outbox.notified >= 1
        found = await store.deliveries("hook")
        assert [each.id for each in found] == [3, 2, 1] and {each.state for each in found} == {DeliveryState.PENDING}


async def test_webhooks_share_a_message(tmp_path: Path) -> None:
    async with opened(tmp_path, Outbox("one", "two")) as store:
        store.event(failed_event(1))
        (one,), (two,) = await store.deliveries("one"), await store.deliveries("two")
        assert one.message_id == two.message_id and one.delivery_id != two.delivery_id


async def test_what_a_killed_process_left_in_its_journal_is_delivered_once(tmp_path: Path) -> None:
    """Its files at every moment: of each the next start makes the same deliveries."""
    runs = [finished() for _ in range(40)]
    async with opened(tmp_path / "living") as store:
        for number, run in enumerate(runs):
            store.run_finished(run, success=True)
            if number % 8 == 0:
                await asyncio.sleep(0.05 * (number % 3))
                shutil.copytree(tmp_path / "living", tmp_path / f"killed-{number}")
    for number in range(0, 40, 8):
        for _ in range(2):  # a second start replays nothing again
            async with opened(tmp_path / f"killed-{number}") as store:
                assert await bodies(store) == [run.run_id for run in runs[: number + 1]]


async def test_runs_that_a_killed_process_left_in_flight_end_as_interrupted(tmp_path: Path) -> None:
    run = accepted()
    async with opened(tmp_path) as store:
        store.run_accepted(run)
    outbox = Outbox()
    async with opened(tmp_path, outbox) as store:
        assert await bodies(store) == [run.run_id]
        assert outbox.notified == 1
    async with opened(tmp_path) as store:
        assert await bodies(store) == [run.run_id]


async def test_attempts_are_noted(tmp_path: Path) -> None:
    at = datetime.now(UTC)
    async with opened(tmp_path) as store:
        store.event(failed_event(1))
        (found,) = await store.deliveries("hook")
        store.delivery_attempted(DeliveryWrite(found.delivery_id, DeliveryState.PENDING, 1, at, 503, "No."))
        (found,) = await store.deliveries("hook", state=DeliveryState.PENDING)
        assert (found.attempts, found.attempted_at, found.status, found.error) == (1, at, 503, "No.")
        store.delivery_attempted(DeliveryWrite(found.delivery_id, DeliveryState.DELIVERED, 2, at, 204))
    async with opened(tmp_path) as store:
        found = await store.delivery("hook", found.delivery_id)
        assert found is not None and (found.state, found.attempts, found.error) == (DeliveryState.DELIVERED, 2, None)
        assert await store.deliveries_waiting() == []


async def test_a_repeated_delivery_has_the_same_message_behind_all_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in (1, 2):
            store.event(failed_event(number))
        first = (await store.deliveries("hook"))[-1]
        new_id = store.repeat_delivery(first.delivery_id)
        again = await store.delivery("hook", new_id)
        assert again is not None and (again.message_id, again.body, again.id) == (first.message_id, first.body, 3)
        assert await store.delivery("other", new_id) is None


async def test_pages_and_what_waits(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(1, 8):
            store.event(failed_event(number, "odd" if number % 2 else "even"))
        await store.flush()
        assert await store.deliveries_waiting() == [("hook", "even", 6), ("hook", "odd", 7)]
        page = await store.deliveries_pending("hook", "odd", after=1, limit=2)
        assert page is not None and [each.id for each in page] == [3, 5]
        assert [each.id for each in await store.deliveries("hook", before=4, limit=2)] == [3, 2]
        assert (await store.delivery_counts())["hook"].pending == 7


async def test_without_webhooks_nothing_is_stored(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path, max_age=timedelta(days=30), max_bytes=64 * 1024**2)
    await store.restore()
    store.event(failed_event(1))
    await store.flush()
    assert await store.deliveries("hook") == []
    await store.close()


async def test_a_damaged_file_is_replaced_and_later_ids_stay_higher(tmp_path: Path) -> None:
    """The dispatcher goes on behind the last that it knows."""
    async with opened(tmp_path) as store:
        for number in (1, 2, 3):
            store.event(failed_event(number))
        await store.flush()
        for name in ("history.sqlite3", "history.sqlite3-wal", "history.sqlite3-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        store.event(failed_event(4))
        assert [each.id for each in await store.deliveries("hook")] == [4]


async def test_a_webhook_that_nobody_takes_from_is_bounded(tmp_path: Path, monkeypatch) -> None:
    """The oldest go, and are counted; those of another webhook stay."""
    monkeypatch.setattr(table, "MAX_PENDING", 20)
    monkeypatch.setattr(table, "MAX_ENDED", 5)
    outbox = Outbox("dead", "well")
    async with opened(tmp_path, outbox) as store:
        for number in range(1, 16):
            store.event(failed_event(number))
        for each in await store.deliveries("well"):
            store.delivery_attempted(DeliveryWrite(each.delivery_id, DeliveryState.DELIVERED, 1, START))
        for number in range(16, 41):
            store.event(failed_event(number))
        async with asyncio.timeout(20):
            while (counts := await store.delivery_counts())["dead"].pending > 20 or counts["well"].delivered > 5:
                await asyncio.sleep(0.05)
        assert (counts["dead"].pending, counts["well"].pending, counts["well"].delivered) == (20, 20, 5)
        assert store.lost_deliveries == 20 + 5
        assert (await store.deliveries("dead"))[-1].body == "event 21"
    assert rows(tmp_path, "SELECT count(*) FROM deliveries") == [(45,)]
