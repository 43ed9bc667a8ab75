"""The write queue: in order, bounded, and what it drops is still counted."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from unit.registry.history.samples import START, accepted, event, finished

from orchestrator.registry.history import Counters
from orchestrator.registry.history.write_queue import QueuedWrite, WriteAck, WriteQueue
from orchestrator.registry.history.writes import (
    EventWrite,
    FlushBarrier,
    PostMortemWrite,
    RunWrite,
    counted_writes,
    counters_delta,
    latest_runs,
    memory_bytes,
    run_delta,
)


def entry(write=None) -> QueuedWrite:
    return QueuedWrite(write or RunWrite(finished(), success=True), WriteAck())


def test_writes_leave_in_the_order_in_which_they_came() -> None:
    queue, entries = WriteQueue(10**6), [entry() for _ in range(5)]
    for each in entries:
        assert queue.put(each) == []
    assert queue.take_batch(3).entries == entries[:3]
    assert queue.take_batch(3).entries == entries[3:]
    assert queue.take_batch(3).entries == []


def test_a_requeued_batch_is_first_again() -> None:
    queue, entries = WriteQueue(10**6), [entry() for _ in range(4)]
    for each in entries[:3]:
        queue.put(each)
    batch = queue.take_batch(2)
    queue.put(entries[3])
    queue.requeue(batch)
    assert queue.take_batch(9).entries == entries


def test_a_long_post_mortem_takes_more_room() -> None:
    """The bound is on memory, not on the number of writes."""
    queue = WriteQueue(10_000)
    queue.put(entry())
    [dropped] = queue.put(entry(PostMortemWrite("reader", 1, "x" * 9_500)))
    assert isinstance(dropped.write, RunWrite)
    assert (queue.lost, len(queue)) == (1, 1)


def test_a_dropped_flush_barrier_is_no_loss() -> None:
    queue = WriteQueue(memory_bytes(FlushBarrier()))
    queue.put(entry(FlushBarrier()))
    queue.put(entry(FlushBarrier()))
    assert queue.lost == 0


@given(st.lists(st.sampled_from([True, False, None, "take", "fail"]), max_size=60), st.integers(500, 5000))
def test_every_run_counts_once_whether_it_is_stored_or_dropped(steps: list, capacity: int) -> None:
    """However many are dropped, taken or requeued: written and pending counters add up to all runs."""
    queue, written, expected = WriteQueue(capacity), Counters(), Counters()

    def write(max_writes: int) -> Counters:
        batch = queue.take_batch(max_writes)
        total = (batch.pending or {}).get("reader", Counters())
        for each in batch.entries:
            total = total.plus(run_delta(each.write.run, success=each.write.success))
        return total

    for step in steps:
        if step == "take":
            written = written.plus(write(3))
        elif step == "fail":
            queue.requeue(queue.take_batch(3))
        else:
            run = finished(execution_ms=1.0)
            expected = expected.plus(run_delta(run, success=step))
            queue.put(entry(RunWrite(run, success=step)))
    assert written.plus(write(1000)) == expected


def test_last_means_the_last_write_not_the_latest_time() -> None:
    later_by_the_clock = Counters(last_ms=5.0, last_used=START + timedelta(days=1), generation=4)
    came_last = Counters(success=1, last_ms=7.0, last_used=START, generation=3)
    assert later_by_the_clock.plus(came_last) == Counters(1, 0, 0.0, 7.0, START, 4)
    assert later_by_the_clock.plus(Counters(error=1)).last_used == START + timedelta(days=1)


def test_the_steps_of_one_run_in_a_batch_are_one_row() -> None:
    """The run's last state."""
    first, second = accepted(), accepted()
    writes = [RunWrite(first), RunWrite(second), RunWrite(finished(first), success=True)]
    assert list(latest_runs(writes).values()) == writes[2:0:-1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["start", "end", "event"])), max_size=30))
def test_writes_left_out_of_the_count_change_no_sum(steps: list[tuple[int, str]]) -> None:
    """A batch's counters equal the sum over all its writes, one by one."""
    runs = [finished(generation=number) for number in range(4)]
    writes = []
    for number, step in steps:
        if step == "event":
            writes.append(EventWrite(event(1, generation=number)))
        else:
            run = replace(runs[number], started_at=START + timedelta(seconds=number))
            writes.append(RunWrite(run, success=number % 2 == 0 if step == "end" else None))
    sums = [Counters(), Counters()]
    for index, chosen in enumerate((writes, counted_writes(writes, latest_runs(writes)))):
        for write in chosen:
            sums[index] = sums[index].plus(counters_delta(write)[1])
    assert sums[0] == sums[1]


def test_pending_counters_are_older_than_all_queued_writes() -> None:
    """Writes requeued after later ones were dropped are dropped before those: no queued write is older than one that is
    counted already.
    """
    queue = WriteQueue(3 * memory_bytes(FlushBarrier()))
    for number in range(1, 4):
        queue.put(entry()._replace(number=number))
    batch = queue.take_batch(2)
    for number in range(4, 7):
        queue.put(entry()._replace(number=number))
    queue.requeue(batch)
    assert queue.lost == 3
    first = queue.take_batch(1)
    assert first.pending is not None
    assert (first.pending["reader"].success, [each.number for each in first.entries], first.through) == (3, [4], 4)
    assert [each.number for each in queue.take_batch(9).entries] == [5, 6]
