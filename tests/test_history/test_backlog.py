"""What waits to be written: in order, bounded, and what is dropped is still counted."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_history.samples import START, accepted, event, finished

from orchestrator.registry.history import Counters
from orchestrator.registry.history.backlog import Backlog, Entry
from orchestrator.registry.history.receipts import Receipt
from orchestrator.registry.history.records import share
from orchestrator.registry.history.writes import (
    EventWrite,
    Mark,
    PostMortemWrite,
    RunWrite,
    counting,
    latest_runs,
    shares,
    weight,
)


def entry(write=None) -> Entry:
    return Entry(write or RunWrite(finished(), success=True), Receipt(lambda: None))


def test_first_come_first_written() -> None:
    backlog, entries = Backlog(10**6), [entry() for _ in range(5)]
    for each in entries:
        assert backlog.put(each) == []
    assert backlog.take(3).entries == entries[:3]
    assert backlog.take(3).entries == entries[3:]
    assert backlog.take(3).entries == []


def test_what_is_given_back_is_first_again() -> None:
    backlog, entries = Backlog(10**6), [entry() for _ in range(4)]
    for each in entries[:3]:
        backlog.put(each)
    group = backlog.take(2)
    backlog.put(entries[3])
    backlog.give_back(group)
    assert backlog.take(9).entries == entries


def test_a_long_post_mortem_weighs_more() -> None:
    """The bound is one of memory, not of numbers."""
    backlog = Backlog(10_000)
    backlog.put(entry())
    [dropped] = backlog.put(entry(PostMortemWrite("reader", 1, "x" * 9_500)))
    assert isinstance(dropped.write, RunWrite)
    assert (backlog.lost, len(backlog)) == (1, 1)


def test_a_mark_is_no_loss() -> None:
    backlog = Backlog(weight(Mark()))
    backlog.put(entry(Mark()))
    backlog.put(entry(Mark()))
    assert backlog.lost == 0


@given(st.lists(st.sampled_from([True, False, None, "take", "fail"]), max_size=60), st.integers(500, 5000))
def test_every_run_counts_once_whether_it_is_kept_or_not(steps: list, capacity: int) -> None:
    """However many are dropped, taken or given back: written and owed together are all that came."""
    backlog, written, came = Backlog(capacity), Counters(), Counters()

    def write(at_most: int) -> Counters:
        group = backlog.take(at_most)
        total = (group.debts or {}).get("reader", Counters())
        for each in group.entries:
            total = total.plus(share(each.write.run, success=each.write.success))
        return total

    for step in steps:
        if step == "take":
            written = written.plus(write(3))
        elif step == "fail":
            backlog.give_back(backlog.take(3))
        else:
            run = finished(execution_ms=1.0)
            came = came.plus(share(run, success=step))
            backlog.put(entry(RunWrite(run, success=step)))
    assert written.plus(write(1000)) == came


def test_last_is_what_came_last_whatever_the_clock_said() -> None:
    later_by_the_clock = Counters(last_ms=5.0, last_used=START + timedelta(days=1), generation=4)
    came_last = Counters(success=1, last_ms=7.0, last_used=START, generation=3)
    assert later_by_the_clock.plus(came_last) == Counters(1, 0, 0.0, 7.0, START, 4)
    assert later_by_the_clock.plus(Counters(error=1)).last_used == START + timedelta(days=1)


def test_the_steps_of_one_run_in_a_group_are_one_row() -> None:
    """As it stands in the end."""
    first, second = accepted(), accepted()
    writes = [RunWrite(first), RunWrite(second), RunWrite(finished(first), success=True)]
    assert list(latest_runs(writes).values()) == writes[2:0:-1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["start", "end", "event"])), max_size=30))
def test_steps_that_are_left_out_of_the_counting_change_no_sum(steps: list[tuple[int, str]]) -> None:
    """A group's counters are those of all its writes one by one."""
    runs = [finished(generation=number) for number in range(4)]
    writes = []
    for number, step in steps:
        if step == "event":
            writes.append(EventWrite(event(1, generation=number)))
        else:
            run = replace(runs[number], started_at=START + timedelta(seconds=number))
            writes.append(RunWrite(run, success=number % 2 == 0 if step == "end" else None))
    sums = [Counters(), Counters()]
    for place, chosen in enumerate((writes, counting(writes, latest_runs(writes)))):
        for write in chosen:
            sums[place] = sums[place].plus(shares(write)[1])
    assert sums[0] == sums[1]


def test_debts_are_older_than_all_that_waits() -> None:
    """What comes back after later writes had to make way is lost before them: a group's number is never one behind
    which something counted already lies.
    """
    backlog = Backlog(3 * weight(Mark()))
    for number in range(1, 4):
        backlog.put(entry()._replace(number=number))
    group = backlog.take(2)
    for number in range(4, 7):
        backlog.put(entry()._replace(number=number))
    backlog.give_back(group)
    assert backlog.lost == 3
    first = backlog.take(1)
    assert first.debts is not None
    assert (first.debts["reader"].success, [each.number for each in first.entries], first.through) == (3, [4], 4)
    assert [each.number for each in backlog.take(9).entries] == [5, 6]
