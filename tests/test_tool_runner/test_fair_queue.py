"""Whose run is next: each caller's part by its weight, nobody starves, and nobody saves up what it did not use."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.access.principal import Priority, Rate, Share
from orchestrator.tools.admission import Admission, AdmissionQueue, RunRate
from orchestrator.tools.fair_queue import FairQueue

shares = st.builds(Share, st.sampled_from(Priority), st.integers(1, 3))
HIGH, NORMAL, LOW = (Share(priority) for priority in Priority)


def taken(queue: FairQueue) -> str:
    """The run that starts."""
    found = queue.take(1.0)
    assert found is not None
    return found[0]


class Callers:
    """Callers that have runs to make without end, for a plugin that takes them one by one."""

    def __init__(self, shares: Iterable[Share], *, backlog: int = 3) -> None:
        self.shares = {f"caller-{number}": share for number, share in enumerate(shares)}
        self.queue = FairQueue()
        self.made = 0
        for _ in range(backlog):
            for caller in self.shares:
                self.call(caller)

    def call(self, caller: str) -> None:
        self.made += 1
        self.queue.push(f"{caller}/{self.made}", 1.0, caller, self.shares[caller])

    def serve(self, runs: int) -> list[str]:
        """The callers of the runs that start; each makes another one then."""
        served = []
        for _ in range(runs):
            caller = taken(self.queue).partition("/")[0]
            served.append(caller)
            self.call(caller)
        return served


@settings(max_examples=25, deadline=None)
@given(st.lists(shares, min_size=1, max_size=12))
def test_each_caller_gets_its_part(found: list[Share]) -> None:
    """Within a tenth, of 10,000 runs."""
    callers = Callers(found)
    counted = Counter(callers.serve(10_000))
    whole = sum(share.total_weight for share in found)
    for caller, share in callers.shares.items():
        part = 10_000 * share.total_weight / whole
        assert abs(counted[caller] - part) <= max(0.1 * part, 2), (caller, share, counted)


@settings(max_examples=50, deadline=None)
@given(st.lists(shares, min_size=2, max_size=12))
def test_nobody_starves(found: list[Share]) -> None:
    """Between two of its runs a caller waits for no more of the others' than their weights let in."""
    callers = Callers(found)
    served = callers.serve(2_000)
    for caller, share in callers.shares.items():
        others = [other for name, other in callers.shares.items() if name != caller]
        bound = sum(other.total_weight / share.total_weight + 2 for other in others)
        at = [-1, *(index for index, name in enumerate(served) if name == caller), len(served)]
        assert max(later - earlier - 1 for earlier, later in pairwise(at)) <= bound


@given(st.lists(shares, min_size=1, max_size=8), st.integers(0, 200))
def test_a_caller_that_comes_waits_for_hardly_anybody_of_less_priority(found: list[Share], served: int) -> None:
    """However many of theirs wait, and whatever they have had before: only for those who are due by then."""
    lower = [share for share in found if share.total_weight < HIGH.total_weight]
    callers = Callers(lower, backlog=16)
    if lower:
        callers.serve(served)
    callers.queue.push("web/1", 1.0, "web", HIGH)
    ahead = list(callers.queue).index("web/1")
    assert ahead <= sum(share.total_weight for share in lower) / HIGH.total_weight + 2


def test_a_caller_that_was_away_has_saved_nothing_up() -> None:
    """It gets its part from then on, not what it might have had."""
    callers = Callers([NORMAL, NORMAL])
    callers.shares["late"] = NORMAL
    callers.serve(3_000)
    for _ in range(3):
        callers.call("late")
    counted = Counter(callers.serve(300))
    assert all(abs(counted[caller] - 100) <= 2 for caller in callers.shares)


def test_the_runs_of_one_caller_start_in_their_order() -> None:
    """Whatever they take."""
    queue = FairQueue()
    for number in range(50):
        queue.push(f"run-{number}", 1 / (number % 4 + 1))
    assert list(queue) == [f"run-{number}" for number in range(50)]
    assert [taken(queue) for _ in range(50)] == [f"run-{number}" for number in range(50)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), shares, st.sampled_from([1.0, 0.25])), max_size=40))
def test_the_order_that_is_shown_is_the_order_of_the_starts(runs: list[tuple[str, Share, float]]) -> None:
    """Positions are true, as long as nobody comes or goes; levels may be told apart later."""
    queue = FairQueue()
    by_caller: dict[str, Share] = {}
    for number, (caller, share, takes) in enumerate(runs):
        queue.push(f"{caller}{number}", takes, caller, by_caller.setdefault(caller, share))
    shown = list(queue)
    started = [taken(queue) for _ in range(len(queue))]
    assert sorted(shown) == sorted(started) and len(queue) == 0
    for caller in by_caller:
        assert [run for run in shown if run[0] == caller] == [run for run in started if run[0] == caller]


def test_it_forgets_callers_that_have_nothing_to_run() -> None:
    """However many there have been."""
    queue = FairQueue()
    for number in range(1_000):
        queue.push(f"run-{number}", 1.0, f"caller-{number}", LOW)
        if number % 2:
            taken(queue)
        else:
            queue.remove(f"run-{number}")
    while queue.take(1.0) is not None:
        pass
    assert len(queue._lanes) <= 1


def test_a_callers_own_queue_is_full_and_others_are_let_in() -> None:
    """A batch that fills its own does not turn the next caller away."""
    queue = AdmissionQueue(1, 16)
    batch = [queue.admit(f"batch-{n}", caller="batch", share=LOW) for n in range(20)]
    assert Counter(batch) == {Admission.START: 1, Admission.WAIT: 16, Admission.REFUSE: 3}
    assert queue.admit("web", caller="web", share=HIGH) is Admission.WAIT
    assert queue.position("web") == 1
    queue.release("batch-0")
    assert queue.start_next() == ["web"]


def test_so_many_of_a_callers_runs_execute_wherever() -> None:
    """The rest waits, and stands in nobody's way."""
    executing: Counter[str] = Counter()
    first, second = (AdmissionQueue(4, 8, executing) for _ in range(2))
    two = Share(concurrency=2)
    assert [first.admit(f"a{n}", caller="ci", share=two).name for n in range(2)] == ["START", "START"]
    assert second.admit("b0", caller="ci", share=two) is Admission.WAIT
    assert second.admit("other", caller="web") is Admission.START
    assert second.start_next() == []
    assert first.release("a0") == "ci"
    assert second.start_next() == ["b0"]
    assert first.admit("a2", caller="ci", share=two) is Admission.WAIT
    assert first.release("a2") is None and first.release("a1") == "ci" and second.release("b0") == "ci"
    assert not executing


calls = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 30)), max_size=80)


@given(st.integers(1, 3), st.integers(1, 3), calls)
def test_whatever_happens_no_bound_is_exceeded_and_no_slot_is_idle(
    slots: int, bound: int, wishes: list[tuple[str, bool, int]]
) -> None:
    """Of a caller no more execute than may; where a slot is free, only callers wait that are at their bound."""
    queue = AdmissionQueue(slots, 5)
    caps = {"a": Share(concurrency=bound), "b": Share(Priority.HIGH, 2, bound), "c": Share()}
    runs: list[str] = []
    for serial, (caller, comes, number) in enumerate(wishes):
        if comes:
            run = f"{caller}{serial}"
            if queue.admit(run, caller=caller, share=caps[caller]) is not Admission.REFUSE:
                runs.append(run)
        elif runs:
            queue.release(runs.pop(number % len(runs)))
            queue.start_next()
        executing = Counter(run[0] for run in queue.running)
        assert len(queue.running) <= slots and all(executing[caller] <= bound for caller in "ab")
        waiting = {run[0] for run in queue.waiting}
        assert len(queue.running) == slots or all(caller != "c" and executing[caller] == bound for caller in waiting)
        assert set(runs) == set(queue.running) | set(queue.waiting)


@given(st.integers(1, 20), st.lists(st.floats(0, 5), max_size=200))
def test_a_rate_is_never_exceeded_and_the_wait_is_true(count: int, pauses: list[float]) -> None:
    """In no window of its length are there more; after the wait that is told there is room, and not before."""
    rate, now, made = RunRate(Rate(count, 10.0)), 0.0, []
    for pause in pauses:
        now += pause
        if wait := rate.wait(now):
            assert rate.wait(now + wait * 0.99) > 0
            assert rate.wait(now + wait + 1e-6) == 0
        else:
            rate.count(now)
            made.append(now)
    assert all(len([at for at in made if start <= at < start + 10.0]) <= count for start in made)
