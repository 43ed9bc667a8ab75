"""The pure decisions about batches: who is in one, and when it starts."""

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_runtime.authoring import ToolOptions
from plugin_runtime.tools.batches import (
    IN_TIME,
    START_IN_TIME,
    BatchFault,
    BatchQueue,
    BatchSettings,
    Item,
    batch_settings,
    same,
)


def queue(size: int = 3, wait: float = 1.0) -> BatchQueue[Item]:
    return BatchQueue(BatchSettings(size, wait))


def item(value: str, arrived: float = 0.0, seconds: float = math.inf, **others: object) -> Item:
    return Item(value, others, arrived=arrived, seconds=seconds)


def values(items: list[Item]) -> list[str]:
    return [each.value for each in items]


def test_a_full_batch_starts_at_once_and_others_after_the_wait_of_their_first():
    batches = queue()
    for name, arrived in (("a", 0.0), ("b", 0.1), ("c", 0.2), ("d", 0.3)):
        batches.add(item(name, arrived))
    assert values(batches.take(0.3)) == ["a", "b", "c"]
    assert batches.take(1.2) == []
    assert batches.due_at() == pytest.approx(1.3)
    assert values(batches.take(1.31)) == ["d"]
    assert batches.due_at() == math.inf


def test_items_whose_other_arguments_differ_are_never_together():
    batches = queue(size=8)
    for number, threshold in enumerate((0.5, 0.7, 0.5, 1, 1.0, True)):
        batches.add(item(str(number), number / 10, threshold=threshold))
    taken = [values(batches.take(10)) for _ in range(6)]
    assert taken == [["0", "2"], ["1"], ["3"], ["4"], ["5"], []]


def test_a_full_batch_does_not_starve_an_older_item_of_another_kind():
    batches = queue(size=2)
    batches.add(item("old", 0.0, kind=1))
    for round_ in range(3):
        for name in "ab":
            batches.add(item(name, 0.1 + round_, kind=2))
    assert values(batches.take(0.5)) == ["a", "b"]  # the old one may still wait
    assert values(batches.take(1.0)) == ["old"]
    assert values(batches.take(1.0)) == ["a", "b"]


def test_a_batch_starts_before_the_earliest_deadline_of_its_items():
    """By so much as the last batches took: it has to end in time, not to start in time."""
    batches = queue(size=8, wait=50)
    batches.add(item("a", 0.0, seconds=100))
    batches.add(item("b", 0.0, seconds=10))
    assert batches.due_at() == pytest.approx(10 * START_IN_TIME)
    assert batches.executed(2.0) is True
    assert batches.executed(1.0) is False
    assert batches.due_at() == pytest.approx(10 * IN_TIME - 2)
    assert values(batches.take(8)) == ["a", "b"]


def test_an_item_behind_slow_batches_is_refused_in_time_and_one_that_nothing_holds_up_is_not():
    batches = queue()
    batches.executed(99.0)
    alone = item("a", 0.0, seconds=10)
    batches.add(alone)
    assert batches.refused_at(alone, busy=True) <= 0
    assert batches.refused_at(alone, busy=False) == pytest.approx(10 * IN_TIME)
    assert values(batches.take(0.0)) == ["a"]  # late already, so it does not wait


def test_an_item_that_leaves_is_in_no_batch():
    batches = queue(size=2)
    one, other = item("a"), item("b", 0.1)
    batches.add(one)
    assert batches.remove(one)
    assert not batches.remove(one)
    batches.add(other)
    assert batches.due_at() == pytest.approx(1.1)
    assert values(batches.take(1.1)) == ["b"]


steps = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 2), st.sampled_from([0.02, 0.2, 1.0, math.inf])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.05, 0.3])),
    st.tuples(st.just("take")),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("executed"), st.sampled_from([0.001, 0.05, 0.5])),
)


@given(st.lists(steps, max_size=80), st.integers(2, 5), st.sampled_from([0.0, 0.05, 0.5]))
def test_whatever_happens_nobody_is_lost_answered_twice_mixed_or_late(history, size, wait):
    """Late: a batch that is due is one that could be taken by then, and its start is no later than any of its items'
    last start, or at once where that has passed.
    """
    batches: BatchQueue[Item] = BatchQueue(BatchSettings(size, wait))
    now, number = 0.0, 0
    waiting: list[Item] = []
    done: list[Item] = []

    def take(now: float) -> list[Item]:
        due = batches.due_at()
        taken = batches.take(now)
        assert bool(taken) == (due <= now and due < math.inf)
        assert len(taken) <= size
        assert all(same(each.others, taken[0].others) for each in taken)
        for each in taken:
            waiting.remove(each)
        # In the order of arrival, within the batch and towards those of its kind that are left.
        assert [each.value for each in taken] == sorted(each.value for each in taken)
        of_kind = [each.value for each in waiting if taken and each.others == taken[0].others]
        assert not of_kind or max(each.value for each in taken) < min(of_kind)
        done.extend(taken)
        return taken

    for step, *given_values in history:
        match step:
            case "add":
                new = Item(number, {"kind": given_values[0]}, arrived=now, seconds=given_values[1])
                number += 1
                waiting.append(new)
                batches.add(new)
            case "wait":
                now += given_values[0]
            case "take":
                take(now)
            case "leave" if waiting:
                gone = waiting.pop(given_values[0] % len(waiting))
                assert batches.remove(gone)
                done.append(gone)
            case "executed":
                batches.executed(given_values[0])
        assert {id(each) for each in batches.items()} == {id(each) for each in waiting}
        for each in waiting:
            assert batches.due_at() <= max(each.arrived + wait, each.arrived)
            assert batches.due_at() <= batches.last_start(each)
    while take(math.inf):
        pass
    assert waiting == []
    assert len({id(each) for each in done}) == len(done) == number


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": [1, "x"]}, {"a": [1, "x"]}, True),
        ({"a": 1}, {"b": 1}, False),
        (1, 1.0, False),
        (1, True, False),
        ([1], [True], False),
        (0.0, -0.0, False),
        (math.nan, math.nan, False),
        ("ab", "ab", True),
        (b"ab", bytearray(b"ab"), False),
        (Decimal("1.0"), Decimal("1.00"), False),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))), False),
        (object(), object(), False),
    ],
)
def test_arguments_are_the_same_where_no_tool_could_tell_them_apart(one, other, equal):
    assert same(one, other) is equal


def test_arguments_that_cannot_be_compared_are_not_the_same():
    class Broken:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("compared")

        __hash__ = None

    assert not same({"a": Broken()}, {"a": Broken()})


@pytest.mark.parametrize(
    ("batch", "wait", "settings"),
    [(None, None, None), (2, None, (2, 0.005)), (1024, "0ms", (1024, 0.0)), (16, "0.5s", (16, 0.5))],
)
def test_what_a_tool_is_given_is_read(batch, wait, settings):
    assert batch_settings(ToolOptions(batch, wait, idempotent=False)) == settings


@pytest.mark.parametrize(
    ("batch", "wait", "phrase"),
    [
        *((batch, None, "from 2 to 1024") for batch in (1, 0, -1, 1025, True, "16", 2.0)),
        *((16, wait, "duration such as") for wait in ("5", "5 ms", 5, 0.005, "-1ms", "61s", "nan", "1h", "")),
        (None, "5ms", "give `batch` too"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(batch, wait, phrase):
    with pytest.raises(BatchFault, match=phrase):
        batch_settings(ToolOptions(batch, wait, idempotent=False))
