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
    Policy,
    judge,
    next_due,
    pause,
    retry_after_of,
    startable,
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


def test_a_lane_has_one_attempt_at_a_time_and_waits_for_its_pause() -> None:
    lanes = [lane("a", "1", in_flight=True), lane("a", "2", due=5.0), lane("a", "3"), lane("a", "4", after=1)]
    assert startable(lanes, {}, 1.0, 8) == [lanes[2]]
    assert next_due(lanes, {}, 1.0) == 4.0
    assert next_due(lanes[:1], {}, 1.0) == inf


def test_a_webhook_that_rests_has_none_and_others_go_on() -> None:
    lanes = [lane("a", "1"), lane("b", "1"), lane("a", "2", due=9.0)]
    assert startable(lanes, {"a": "gone"}, 1.0, 8) == [lanes[1]]
    assert next_due(lanes, {"a": "gone"}, 1.0) == inf


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 3), st.floats(0, 10)), max_size=60),
    st.integers(1, 8),
)
def test_retries_never_take_all_places(states: list[tuple[str, bool, int, float]], concurrency: int) -> None:
    lanes = [
        lane(webhook, str(number), in_flight=in_flight and number < concurrency, failures=failures, due=due)
        for number, (webhook, in_flight, failures, due) in enumerate(states)
    ]
    before = {name: sum(each.in_flight and each.webhook == name for each in lanes) for name in "ab"}
    chosen = startable(lanes, {}, 5.0, concurrency)
    assert len({id(each) for each in chosen}) == len(chosen)
    for name in "ab":
        mine = [each for each in chosen if each.webhook == name]
        assert before[name] + len(mine) <= max(concurrency, before[name])
        retries = sum(each.failures > 0 for each in mine)
        was = sum(each.in_flight and each.failures > 0 and each.webhook == name for each in lanes)
        assert was + retries <= max(was, 1, concurrency // 2)
        # A first attempt is left out only where all places are taken.
        fresh = [e for e in lanes if e.webhook == name and not e.failures and not e.in_flight and e.due <= 5.0]
        if any(each not in chosen for each in fresh):
            assert before[name] + len(mine) == max(concurrency, before[name])


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
    lanes = {name: Lane("hook", name, newest=count) for name, count in counts.items()}
    delivered: dict[str, list[int]] = {name: [] for name in counts}
    done_at: dict[str, float] = {}
    running: list[tuple[float, int, str, bool]] = []
    now, serial = 0.0, 0
    took = {"dead": POLICY.time_limit, "flaky": 0.01, "slow": 1.0, "well": 0.01}
    while now < 3600:
        for each in startable(lanes.values(), {}, now, concurrency):
            each.in_flight = True
            ok = each.plugin in ("slow", "well") or (each.plugin == "flaky" and rng.random() < 0.5)  # type: ignore[attr-defined]
            serial += 1
            heapq.heappush(running, (now + took[each.plugin], serial, each.plugin, ok))
        times = [running[0][0]] if running else []
        now = min([*times, now + next_due(lanes.values(), {}, now)])
        if now == inf:
            break
        while running and running[0][0] <= now:
            _, _, name, ok = heapq.heappop(running)
            each = lanes[name]
            each.in_flight = False
            if ok:
                each.after += 1
                each.failures = 0
                delivered[name].append(each.after)
                done_at[name] = now
            else:
                each.failures += 1
                each.due = now + pause(each.failures, rng.random(), None, POLICY)  # type: ignore[attr-defined]
    for name, numbers in delivered.items():
        assert numbers == list(range(1, len(numbers) + 1))
        assert name == "dead" or len(numbers) == counts[name]
    others = sum(took[name] * counts[name] for name in counts if name in ("slow", "well"))
    for name in ("slow", "well"):
        if name in counts:
            # With one place for all there is a dead attempt before it each time that one is due.
            assert done_at[name] <= others + POLICY.time_limit * (1 if concurrency > 1 else counts[name] + 1) + 1
    assert delivered.get("dead", []) == []
