"""When attempts are made, and what their answers mean: by properties, over receivers that fail as they like."""

import heapq
from datetime import UTC, datetime
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.registry.history.records import DeliveryRecord, DeliveryState
from orchestrator.webhooks.schedule import (
    Answer,
    AttemptVerdict,
    Lane,
    Lanes,
    Policy,
    judge,
    pause,
    retry_after_of,
)

POLICY = Policy()
NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200), AttemptVerdict.DELIVERED),
        (Answer(204), AttemptVerdict.DELIVERED),
        (Answer(302), AttemptVerdict.RETRY),
        (Answer(400), AttemptVerdict.RETRY),
        (Answer(410), AttemptVerdict.GONE),
        (Answer(429, retry_after=5), AttemptVerdict.RETRY),
        (Answer(500), AttemptVerdict.RETRY),
        (Answer(error="No."), AttemptVerdict.RETRY),
        (Answer(), AttemptVerdict.RETRY),
    ],
)
def test_what_an_answer_means(answer: Answer, verdict: AttemptVerdict) -> None:
    assert judge(answer, 0, POLICY) is verdict
    assert (answer.problem is None) is (verdict is AttemptVerdict.DELIVERED)
    if verdict is AttemptVerdict.RETRY:
        assert judge(answer, POLICY.give_up_after, POLICY) is AttemptVerdict.GIVE_UP


@given(st.integers(1, 10_000), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_a_pause_is_bounded_and_grows(failures: int, chance: float, retry_after: float | None) -> None:
    seconds = pause(failures, chance, retry_after, POLICY)
    assert POLICY.first_pause * 0.75 <= seconds <= max(POLICY.longest_pause, POLICY.longest_retry_after)
    assert seconds >= min(retry_after or 0, POLICY.longest_retry_after)
    assert pause(failures + 1, chance, retry_after, POLICY) >= seconds


def test_all_that_failed_together_do_not_come_back_together() -> None:
    assert len({pause(5, chance / 10, None, POLICY) for chance in range(10)}) == 10


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 40, 999_999_999.0),
        ("Sat, 28 Nov 2026 12:01:00 GMT", 60.0),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after_of(text, NOW) == seconds


def lane(webhook: str, plugin: str, **facts: object) -> Lane:
    found = Lane(webhook, plugin, newest=1)
    for name, value in facts.items():
        setattr(found, name, value)
    return found


def among(waiting: list[Lane], in_flight: list[Lane] | None = None, *, concurrency: int = 8) -> Lanes:
    """These lanes, the latter with an attempt each as far as that is allowed."""
    lanes = Lanes(concurrency)
    for each in in_flight or []:
        lanes.add(each)
    lanes.start({}, inf)
    for each in waiting:
        lanes.add(each)
    return lanes


def test_a_lane_has_one_attempt_at_a_time_and_waits_for_its_pause() -> None:
    first, later = lane("a", "1"), lane("a", "2", due=5.0)
    lanes = among([first, later])
    assert (lanes.start({}, 1.0), lanes.start({}, 1.0)) == ([first], [])
    assert lanes.next_due({}, 1.0) == 4.0
    lanes.found("a", "1", 2)
    assert lanes.start({}, 2.0) == [], "there is more for it, and its attempt is under way"
    first.after, first.due = 1, 2.5
    lanes.ended(first)
    assert lanes.next_due({}, 2.0) == 0.5
    assert lanes.start({}, 5.0) == [first, later]
    first.after = later.after = 2
    lanes.ended(first)
    lanes.ended(later)
    assert lanes.next_due({}, 5.0) == inf


def test_a_lane_without_work_has_some_again() -> None:
    lanes = Lanes(8)
    lanes.found("a", "1", 3)
    (found,) = lanes.start({}, 0.0)
    found.after = 3
    lanes.ended(found)
    lanes.found("a", "1", 3)
    assert lanes.start({}, 9.0) == []
    lanes.found("a", "1", 4)
    lanes.found("a", "1", 5)
    assert lanes.start({}, 9.0) == [found]
    assert found.newest == 5


def test_a_webhook_that_rests_has_none_and_others_go_on() -> None:
    other = lane("b", "1")
    lanes = among([lane("a", "1"), other, lane("a", "2", due=9.0)])
    assert lanes.start({"a": "gone"}, 1.0) == [other]
    assert lanes.next_due({"a": "gone"}, 1.0) == inf
    assert len(lanes.start({}, 1.0)) == 1, "it goes on where it was"


@given(st.floats(0, 10), st.lists(st.floats(0, 10), min_size=1, max_size=20), st.integers(1, 8))
def test_each_lane_begins_or_is_waited_for(now: float, dues: list[float], concurrency: int) -> None:
    """At the same reading of the clock: none is due in between, to be found by no event."""
    lanes = among([lane("a", str(number), due=due) for number, due in enumerate(dues)], concurrency=concurrency)
    started = lanes.start({}, now)
    later = [due - now for due in dues if due > now]
    assert len(started) == min(concurrency, len(dues) - len(later))
    if len(started) < concurrency:
        assert lanes.next_due({}, now) == min(later, default=inf)


def test_an_outage_of_many_lanes_costs_no_look_at_all_of_them() -> None:
    """Each end of an attempt has the next begin, in the order in which they are due."""
    looked_at = 0

    class Counted(float):
        def __lt__(self, other: float) -> bool:
            nonlocal looked_at
            looked_at += 1
            return float(self) < other

        def __eq__(self, other: object) -> bool:
            return float(self) == other

        __hash__ = float.__hash__

    number = 16_000
    lanes = among([lane("a", str(n), due=Counted(n % 997), failures=1) for n in range(number)], concurrency=2)
    looked_at, began = 0, []
    for _ in range(100):
        (each,) = lanes.start({}, 997.0)
        began.append(each.due)
        each.due = Counted(2000.0)
        lanes.ended(each)
        assert lanes.next_due({}, 997.0) == inf
    assert began == sorted(began)
    assert looked_at < 100 * 60


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 3), st.floats(0, 10)), max_size=60),
    st.integers(1, 8),
)
def test_retries_never_take_all_places(states: list[tuple[str, bool, int, float]], concurrency: int) -> None:
    every = [
        (lane(webhook, str(number), failures=failures, due=due), in_flight)
        for number, (webhook, in_flight, failures, due) in enumerate(states)
    ]
    lanes = among(
        [each for each, in_flight in every if not in_flight],
        [each for each, in_flight in every if in_flight],
        concurrency=concurrency,
    )
    before = [each for each in lanes if each.in_flight]
    chosen = lanes.start({}, 5.0)
    assert len({id(each) for each in [*before, *chosen]}) == len(before) + len(chosen)
    assert all(each.due <= 5.0 for each in chosen)
    assert [each.due for each in chosen if each.webhook == "a"] == sorted(e.due for e in chosen if e.webhook == "a")
    for name in "ab":
        mine = [each for each in [*before, *chosen] if each.webhook == name]
        assert len(mine) <= concurrency
        assert sum(each.failures > 0 for each in mine) <= max(1, concurrency // 2)
        # A first attempt is left out only where all places are taken.
        if any(e.webhook == name and not e.failures and not e.in_flight and e.due <= 5.0 for e in lanes):
            assert len(mine) == concurrency


def record(number: int) -> DeliveryRecord:
    return DeliveryRecord(number, f"dlv_{number}", "m", "h", "p", "t", "{}", NOW, DeliveryState.PENDING)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["dead", "flaky", "slow", "well"]), st.integers(1, 12), min_size=2),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_each_lane_is_in_order_and_a_dead_one_holds_up_no_other(
    counts: dict[str, int], concurrency: int, chance: object
) -> None:
    """Simulated time: the receiver of `dead` hangs for the whole time limit of each attempt, `flaky` fails half the
    time, `slow` takes a second. What is well is done within its own attempts and one time limit of the dead.
    """
    rng = chance
    lanes = Lanes(concurrency)
    for name, count in counts.items():
        lanes.found("hook", name, count)
    delivered: dict[str, list[int]] = {name: [] for name in counts}
    done_at: dict[str, float] = {}
    running: list[tuple[float, int, Lane, bool]] = []
    now, serial = 0.0, 0
    took = {"dead": POLICY.time_limit, "flaky": 0.01, "slow": 1.0, "well": 0.01}
    while now < 3600:
        for each in lanes.start({}, now):
            ok = each.plugin in ("slow", "well") or (each.plugin == "flaky" and rng.random() < 0.5)  # type: ignore[attr-defined]
            serial += 1
            heapq.heappush(running, (now + took[each.plugin], serial, each, ok))
        times = [running[0][0]] if running else []
        now = min([*times, now + lanes.next_due({}, now)])
        if now == inf:
            break
        while running and running[0][0] <= now:
            _, _, each, ok = heapq.heappop(running)
            name = each.plugin
            if ok:
                each.after += 1
                each.failures = 0
                delivered[name].append(each.after)
                done_at[name] = now
            else:
                each.failures += 1
                each.due = now + pause(each.failures, rng.random(), None, POLICY)  # type: ignore[attr-defined]
            lanes.ended(each)
    for name, numbers in delivered.items():
        assert numbers == list(range(1, len(numbers) + 1))
        assert name == "dead" or len(numbers) == counts[name]
    others = sum(took[name] * counts[name] for name in counts if name in ("slow", "well"))
    for name in ("slow", "well"):
        if name in counts:
            # With one place for all there is a dead attempt before it each time that one is due.
            assert done_at[name] <= others + POLICY.time_limit * (1 if concurrency > 1 else counts[name] + 1) + 1
    assert delivered.get("dead", []) == []
