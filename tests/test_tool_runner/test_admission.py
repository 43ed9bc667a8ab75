"""Who may run now, who waits, who is sent away: first come, first served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tools.admission import Admission, AdmissionQueue


def answers(queue: AdmissionQueue, count: int) -> list[str]:
    return [queue.admit(str(number)).name for number in range(count)]


def left(queue: AdmissionQueue, run: str) -> list[str]:
    """The runs that start when this one ends or gives up."""
    queue.release(run)
    return queue.start_next()


@pytest.mark.parametrize(
    ("concurrency", "capacity", "expected"),
    [
        (1, 0, ["START", "REFUSE", "REFUSE", "REFUSE"]),
        (1, 2, ["START", "WAIT", "WAIT", "REFUSE"]),
        (3, 0, ["START", "START", "START", "REFUSE"]),
        (2, 1, ["START", "START", "WAIT", "REFUSE"]),
    ],
)
def test_so_many_run_so_many_wait_and_the_rest_is_refused(concurrency: int, capacity: int, expected: list[str]) -> None:
    """As the manifest's `concurrency` and `queue` say."""
    assert answers(AdmissionQueue(concurrency, capacity), 4) == expected


def test_who_leaves_makes_room_for_who_came_first() -> None:
    """One for one, in the order of coming."""
    queue = AdmissionQueue(1, 3)
    answers(queue, 4)
    assert [left(queue, run) for run in ("0", "1", "2", "3")] == [["1"], ["2"], ["3"], []]


def test_who_gives_up_waiting_makes_no_room_to_run() -> None:
    """And is not called any more; leaving twice does no harm."""
    queue = AdmissionQueue(1, 3)
    answers(queue, 3)
    assert left(queue, "1") == []
    assert left(queue, "1") == []
    assert left(queue, "0") == ["2"]


def test_nobody_overtakes_those_who_wait() -> None:
    """Not even when there is room to run."""
    queue = AdmissionQueue(1, 2)
    answers(queue, 2)
    queue.resize(2, 2)
    assert queue.admit("late") is Admission.WAIT
    assert left(queue, "0") == ["1", "late"]


def test_a_smaller_limit_ends_no_run_that_runs() -> None:
    """It counts from the next to leave."""
    queue = AdmissionQueue(3, 1)
    answers(queue, 4)
    queue.resize(1, 1)
    assert left(queue, "0") == []
    assert left(queue, "1") == []
    assert left(queue, "2") == ["3"]


def test_runs_that_share_a_batch_take_a_part_of_a_slot_each() -> None:
    """Two batches of 16 are in, one forms while the other executes; a whole run then waits, and nobody overtakes it."""
    queue = AdmissionQueue(1, 3)
    assert [queue.admit(f"item-{n}", takes=1 / 32).name for n in range(33)] == ["START"] * 32 + ["WAIT"]
    assert queue.admit("whole").name == "WAIT"
    assert left(queue, "item-0") == ["item-32"]
    for n in range(1, 32):
        assert left(queue, f"item-{n}") == []
    assert left(queue, "item-32") == ["whole"]


steps = st.lists(st.tuples(st.sampled_from(["admit", "release", "resize"]), st.integers(0, 12)), max_size=60)


@given(st.integers(1, 4), st.integers(0, 4), steps)
def test_whatever_happens_nobody_is_lost_and_nobody_overtakes(
    concurrency: int, capacity: int, wishes: list[tuple[str, int]]
) -> None:
    """Runs start in the order of their admission; nobody waits while there is room; nobody runs and waits."""
    queue = AdmissionQueue(concurrency, capacity)
    widest = concurrency
    admitted: list[str] = []
    started: list[str] = []
    given_up: set[str] = set()
    for serial, (wish, number) in enumerate(wishes):
        if wish == "admit":
            run = f"run-{serial}"
            answer = queue.admit(run)
            if answer is not Admission.REFUSE:
                admitted.append(run)
            if answer is Admission.START:
                started.append(run)
        elif wish == "release" and admitted:
            run = admitted[number % len(admitted)]
            if run in queue.waiting:
                given_up.add(run)
            started += left(queue, run)
        elif wish == "resize":
            queue.resize(1 + number % 4, capacity)
            widest = max(widest, queue.slots)
        assert not set(queue.running) & set(queue.waiting)
        assert len(queue.running) <= widest
        assert len(queue.waiting) <= capacity
    assert started == [run for run in admitted if run in started]
    assert len(started) == len(set(started))
    assert set(admitted) == set(started) | given_up | set(queue.waiting)
