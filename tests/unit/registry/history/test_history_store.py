"""HistoryStore on a working disk: what is written is read back, in order, also after restarts."""

import asyncio
import dataclasses
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from unit.registry.history.samples import START, accepted, event, failed_event, finished, rows, store_in

from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import PluginRecord, PluginRegistry, PostMortem
from orchestrator.registry.history import Counters, HistoryStore, RunState
from orchestrator.registry.history.journal import Journal


async def test_a_run_is_stored_from_its_acceptance_to_its_end(store: HistoryStore) -> None:
    """Each step replaces the one before; times come back to the microsecond."""
    run = accepted()
    assert await store.run_accepted(run)
    waiting = await store.run(run.run_id)
    assert waiting == replace(run, id=1)

    ended = finished(run)
    store.run_started(replace(run, started_at=ended.started_at, generation=2))
    assert await store.run_finished(ended, success=True)
    assert await store.run(run.run_id) == replace(ended, state=RunState.FINISHED, id=1)
    assert await store.run("unknown") is None


async def test_runs_are_read_newest_first_page_by_page(store: HistoryStore) -> None:
    """By plugin or all; ordered by id, not by the clock."""
    backwards = [finished(accepted("a" if n % 2 else "b")) for n in range(10)]
    for number, run in enumerate(backwards):
        store.run_finished(replace(run, accepted_at=START - timedelta(days=number)), success=True)
    await store.flush()

    first = await store.runs(limit=4)
    second = await store.runs(limit=100, before=first[-1].id)
    assert [run.run_id for run in first + second] == [run.run_id for run in reversed(backwards)]
    assert {run.plugin for run in await store.runs(plugin="a")} == {"a"}
    assert len(await store.runs(plugin="a")) == 5
    assert len(await store.runs(since=START - timedelta(days=3))) == 4


async def test_the_registrys_events_are_stored_unchanged(store: HistoryStore) -> None:
    """In their order, under their ids."""
    events = [event(1), event(2, "other"), failed_event(3)]
    for each in events:
        store.event(each)
    assert await store.flush()
    assert await store.events() == events
    assert await store.events(plugin="reader", after=1) == [events[2]]
    assert await store.latest_events(2) == events[1:]


async def test_a_post_mortem_is_stored_with_the_event_of_the_end(store: HistoryStore) -> None:
    report = PostMortem(START, exit_code=139, signal="SIGSEGV", peak_memory_bytes=5, log_tail="line\n" * 100)
    store.event(event(1, generation=3))
    store.event(failed_event(2, generation=3))
    assert await store.post_mortem("reader", 3, report)
    assert await store.post_mortem_of("reader") == report
    assert await store.post_mortem_of("reader", 3) == report
    assert await store.post_mortem_of("reader", 2) is None


async def test_a_start_restores_what_the_process_before_left(tmp_path: Path) -> None:
    """Counters, the last event's id, the highest generation; synchronous runs in flight are recorded as interrupted,
    asynchronous ones returned.
    """
    before = store_in(tmp_path)
    empty = await before.restore()
    assert (empty.counters, empty.last_event_id, empty.complete) == ({}, 0, True)
    before.event(event(7, generation=3))
    before.run_finished(finished(), success=True)
    before.run_finished(finished(execution_ms=5.0, outcome="plugin_failed"), success=False)
    before.run_finished(finished(outcome="invalid_input", started_at=START + timedelta(hours=1)), success=None)
    lost, awaited = accepted("other"), accepted("other", asynchronous=True)
    before.run_accepted(lost)
    before.run_accepted(awaited)
    await before.close()

    after = store_in(tmp_path)
    restored = await after.restore()
    assert restored.counters == {
        "reader": Counters(1, 1, 25.0, 5.0, START + timedelta(hours=1), 3),
        "other": Counters(),
    }
    assert (restored.last_event_id, restored.interrupted) == (7, 1)
    assert [run.run_id for run in restored.asynchronous] == [awaited.run_id]
    interrupted = await after.run(lost.run_id)
    assert interrupted is not None, after.problem
    assert (interrupted.state, interrupted.outcome) == (RunState.INTERRUPTED, "interrupted")
    assert await after.run_interrupted(restored.asynchronous[0])
    await after.close()
    assert rows(tmp_path, "SELECT count(*) FROM runs WHERE state = 'in-flight'") == [(0,)]


async def test_only_its_owner_can_read_the_file(store: HistoryStore, tmp_path: Path) -> None:
    """Nor the log and the journal beside it."""
    await store.run_finished(finished(), success=True)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys((".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ".journal"), 0o600)


async def test_an_awaited_write_is_in_the_database_with_all_earlier_ones(
    store: HistoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that were not awaited. Without a journal the acknowledgement waits for the database."""
    monkeypatch.setattr(Journal, "append", lambda *_: False)
    for number in range(1, 300):
        store.event(event(number))
    assert await store.run_finished(finished(), success=True)
    assert rows(tmp_path, "SELECT count(*), max(id) FROM events") == [(299, 299)]


async def test_concurrent_runs_of_many_callers_are_all_stored(store: HistoryStore, tmp_path: Path) -> None:
    """They are committed in batches, and the counters are the sums of the rows."""

    async def caller(number: int) -> None:
        for index in range(25):
            assert await store.run_finished(finished(accepted(f"p{number % 3}")), success=index % 5 != 0)

    await asyncio.gather(*map(caller, range(16)))
    assert await store.flush()
    assert rows(tmp_path, "SELECT count(*) FROM runs") == [(400,)]
    assert rows(tmp_path, "SELECT sum(success), sum(error), sum(total_ms) FROM counters") == [(320, 80, 8000.0)]


async def test_threads_write_concurrently(store: HistoryStore, tmp_path: Path) -> None:
    """Events are written on the thread that changed the registry."""

    def write(plugin: str) -> None:
        for _ in range(500):
            store.run_finished(finished(accepted(plugin)), success=True)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert await store.flush()
    assert rows(tmp_path, "SELECT plugin, success FROM counters ORDER BY plugin") == [("a", 500), ("b", 500)]


async def test_readers_and_the_writer_do_not_wait_for_each_other(store: HistoryStore) -> None:
    """Pages are read while hundreds of runs are written."""

    async def write() -> None:
        for _ in range(300):
            assert await store.run_finished(finished(), success=True)

    writing = asyncio.create_task(write())
    seen = [len(await store.runs(limit=1000)) for _ in range(20)]
    await writing
    assert seen == sorted(seen)
    assert store.problem is None


async def test_an_event_whose_id_is_taken_gets_the_next(store: HistoryStore) -> None:
    """As after a start that could not read the last id: nothing is overwritten, the order stays."""
    for number in (5, 1, 2, 9):
        store.event(event(number, reason=f"as {number}"))
    await store.flush()
    assert [(known.id, known.reason) for known in await store.events()] == [
        (5, "as 5"), (6, "as 1"), (7, "as 2"), (9, "as 9"),
    ]  # fmt: skip


async def test_bytes_that_are_not_utf8_become_question_marks(store: HistoryStore) -> None:
    """A plugin's output may hold such bytes, in names too."""
    store.event(failed_event(1, plugin="r\udcffder"))
    report = PostMortem(START, log_tail="caf\udce9")
    assert await store.post_mortem("r\udcffder", 1, report)
    [stored] = await store.events()
    assert stored.plugin == "r?der"
    assert await store.post_mortem_of("r?der") == dataclasses.replace(report, log_tail="caf?")


async def test_a_write_that_sqlite_rejects_is_lost_alone(store: HistoryStore, tmp_path: Path) -> None:
    """The rest of its batch is stored; the loss is counted."""
    for size in (1, 2, 3, 2**70, 5, 6, 7):
        store.run_finished(finished(request_bytes=size), success=True)
    assert await store.flush()
    assert (store.lost, store.problem) == (1, None)
    assert rows(tmp_path, "SELECT success FROM counters") == [(6,)]


async def test_after_close_nothing_is_stored_and_nothing_raises(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.restore()
    await store.close()
    assert await store.run_finished(finished(), success=True) is False
    assert await store.flush() is False
    assert store.lost == 1, "a flush holds nothing that could be lost"
    assert await store.runs() == []


async def test_the_last_event_of_each_instance_is_restored(tmp_path: Path) -> None:
    """Of instances that lived at the same time, whichever came to its end first; of each plugin apart."""
    first = store_in(tmp_path)
    await first.restore()
    ready = {"previous": PluginLifecycleState.LOADED, "state": PluginLifecycleState.INITIALIZED}
    events = [
        event(1, generation=1),
        event(2, generation=2),
        event(3, "other", generation=2),
        event(4, generation=2, **ready),
        event(5, generation=1, **ready),
        failed_event(6, generation=2),
    ]
    for each in events:
        first.event(each)
    await first.close()
    restored = await store_in(tmp_path).restore()
    assert restored.ended == {("reader", 2)}


async def test_the_store_can_subscribe_to_the_registry(store: HistoryStore) -> None:
    """Its method is the listener."""
    registry = PluginRegistry()
    registry.subscribe(store.event)
    registry.register(PluginRecord("reader", "1", "", PluginLifecycleState.LOADED, START))
    registry.mark_initialized("reader", registry.renew("reader"))
    await store.flush()
    assert await store.events() == list(registry.events())
    assert len(registry.events()) == 2
