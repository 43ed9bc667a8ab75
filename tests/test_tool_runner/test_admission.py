"""Who may run now, who waits, who is sent away: first come, first served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tools.admission import Admission, AdmissionQueue


def answers(queue: AdmissionQueue, count: int) -> list[str]:
    return [queue.ask(str(number)).name for number in range(count)]


@pytest.mark.parametrize(
    ("concurrency", "capacity", "expected"),
    [
        (1, 0, ["BEGIN", "REFUSE", "REFUSE", "REFUSE"]),
        (1, 2, ["BEGIN", "WAIT", "WAIT", "REFUSE"]),
        (3, 0, ["BEGIN", "BEGIN", "BEGIN", "REFUSE"]),
        (2, 1, ["BEGIN", "BEGIN", "WAIT", "REFUSE"]),
    ],
)
def test_so_many_run_so_many_wait_and_the_rest_is_refused(concurrency: int, capacity: int, expected: list[str]) -> None:
    """As the manifest's `concurrency` and `queue` say."""
    assert answers(AdmissionQueue(concurrency, capacity), 4) == expected


def test_who_leaves_makes_room_for_who_came_first() -> None:
    """One for one, in the order of coming."""
    queue = AdmissionQueue(1, 3)
    answers(queue, 4)
    assert [queue.leave(run) for run in ("0", "1", "2", "3")] == [["1"], ["2"], ["3"], []]


def test_who_gives_up_waiting_makes_no_room_to_run() -> None:
    """And is not called any more; leaving twice does no harm."""
    queue = AdmissionQueue(1, 3)
    answers(queue, 3)
    assert queue.leave("1") == []
    assert queue.leave("1") == []
    assert queue.leave("0") == ["2"]


def test_nobody_overtakes_those_who_wait() -> None:
    """Not even when there is room to run."""
    queue = AdmissionQueue(1, 2)
    answers(queue, 2)
    queue.resize(2, 2)
    assert queue.ask("late") is Admission.WAIT
    assert queue.leave("0") == ["1", "late"]


def test_a_smaller_limit_ends_no_run_that_runs() -> None:
    """It counts from the next to leave."""
    queue = AdmissionQueue(3, 1)
    answers(queue, 4)
    queue.resize(1, 1)
    assert queue.leave("0") == []
    assert queue.leave("1") == []
    assert queue.leave("2") == ["3"]


steps = st.lists(st.tuples(st.sampled_from(["ask", "leave", "resize"]), st.integers(0, 12)), max_size=60)


@given(st.integers(1, 4), st.integers(0, 4), steps)
def test_whatever_happens_nobody_is_lost_and_nobody_overtakes(
    concurrency: int, capacity: int, wishes: list[tuple[str, int]]
) -> None:
    """Runs begin in the order they asked; nobody waits while there is room; nobody runs and waits."""
    queue = AdmissionQueue(concurrency, capacity)
    widest = concurrency
    asked: list[str] = []
    begun: list[str] = []
    given_up: set[str] = set()
    for serial, (wish, number) in enumerate(wishes):
        if wish == "ask":
            run = f"run-{serial}"
            answer = queue.ask(run)
            if answer is not Admission.REFUSE:
                asked.append(run)
            if answer is Admission.BEGIN:
                begun.append(run)
        elif wish == "leave" and asked:
            run = asked[number % len(asked)]
            if run in queue.waiting:
                given_up.add(run)
            begun += queue.leave(run)
        elif wish == "resize":
            queue.resize(1 + number % 4, capacity)
            widest = max(widest, queue.concurrency)
        assert not queue.running & set(queue.waiting)
        assert len(queue.running) <= widest
        assert len(queue.waiting) <= capacity
    assert begun == [run for run in asked if run in begun]
    assert len(begun) == len(set(begun))
    assert set(asked) == set(begun) | given_up | set(queue.waiting)
