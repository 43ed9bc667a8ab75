"""A host's state by what is heard of it, and by time."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.front.host_state import (
    STALE_SECONDS,
    HostState,
    HostStatus,
    drained,
    excused,
    forgotten,
    heard,
    joining,
    proves_life,
    resumed,
    ticked,
    troubled,
)

ALLOWED = {
    HostState.JOINING: {HostState.ONLINE, HostState.DRAINING, HostState.FORGOTTEN},
    HostState.ONLINE: {HostState.STALE, HostState.DRAINING, HostState.FORGOTTEN},
    HostState.DRAINING: {HostState.STALE, HostState.ONLINE, HostState.FORGOTTEN},
    HostState.STALE: {HostState.ONLINE, HostState.DRAINING, HostState.FORGOTTEN},
    HostState.FORGOTTEN: set(),
}
STEPS: dict[str, Callable[[HostStatus, float], HostStatus]] = {
    "heard": heard,
    "ticked": ticked,
    "drained": drained,
    "resumed": resumed,
    "forgotten": forgotten,
    "excused": lambda status, now: excused(status, 2.0, now),
    "troubled": lambda status, _: troubled(status, "no answer"),
}


def test_a_host_is_online_when_it_has_answered() -> None:
    """Not before: its plugins are not known."""
    host = joining(0.0)
    assert (host.state, host.answers, host.takes_new) == (HostState.JOINING, False, False)
    host = heard(host, 1.0)
    assert (host.state, host.answers, host.takes_new, host.since) == (HostState.ONLINE, True, True, 1.0)


def test_silence_makes_it_stale_and_an_answer_online_again() -> None:
    host = heard(joining(0.0), 1.0)
    assert ticked(host, 1.0 + STALE_SECONDS - 0.01) is host
    stale = ticked(host, 1.0 + STALE_SECONDS)
    assert (stale.state, stale.answers) == (HostState.STALE, False)
    assert heard(stale, 9.0).state is HostState.ONLINE


def test_one_that_never_answered_stays_joining() -> None:
    """Nothing is known that could be out of date. Why it does not answer is said."""
    host = ticked(troubled(joining(0.0), "Connection refused."), 1000.0)
    assert (host.state, host.problem) == (HostState.JOINING, "Connection refused.")
    assert heard(host, 1001.0).problem is None


def test_a_failed_request_alone_changes_no_state() -> None:
    host = heard(joining(0.0), 1.0)
    assert troubled(host, "no answer").state is HostState.ONLINE


def test_what_the_front_itself_slept_is_no_silence() -> None:
    """Answers that wait to be read are no worse for it."""
    host = excused(heard(joining(0.0), 1.0), 6.0, 9.0)
    assert ticked(host, 9.0).state is HostState.ONLINE
    assert ticked(host, 10.0).state is HostState.STALE
    assert excused(joining(0.0), 6.0, 9.0) == joining(0.0)


def test_a_host_is_never_heard_in_the_future() -> None:
    """One that answered while the front was late is STALE no later than any other."""
    host = excused(heard(joining(0.0), 5.0), 6.0, 7.0)
    assert host.heard == 7.0
    assert ticked(host, 7.0 + STALE_SECONDS).state is HostState.STALE


@pytest.mark.parametrize(("status", "proof"), [(200, True), (404, True), (429, True), (502, False), (504, False)])
def test_what_a_proxy_may_answer_for_a_silent_host_is_no_proof(status: int, proof: bool) -> None:
    assert proves_life(status) is proof


def test_draining_outlasts_a_silence() -> None:
    """It is an operator's wish, not what the host does."""
    host = drained(heard(joining(0.0), 1.0), 2.0)
    assert (host.state, host.answers, host.takes_new) == (HostState.DRAINING, True, False)
    back = heard(ticked(host, 9.0), 10.0)
    assert back.state is HostState.DRAINING
    assert resumed(back, 11.0).state is HostState.ONLINE


def test_a_silent_host_that_is_drained_is_stale_until_it_answers() -> None:
    stale = ticked(heard(joining(0.0), 1.0), 9.0)
    assert drained(stale, 10.0).state is HostState.STALE
    assert heard(drained(stale, 10.0), 11.0).state is HostState.DRAINING


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.floats(0.0, 10.0)), max_size=30))
def test_whatever_happens_only_the_drawn_ways_are_taken(steps: list[tuple[str, float]]) -> None:
    """And nothing leads out of FORGOTTEN; a host that answers was heard less than STALE_SECONDS ago after each tick."""
    now, host = 0.0, joining(0.0)
    for name, pause in steps:
        now += pause
        after = STEPS[name](host, now)
        assert after.state is host.state or after.state in ALLOWED[host.state]
        assert after.since == (host.since if after.state is host.state else now)
        assert after.heard is None or after.heard <= now
        if name == "ticked" and after.answers:
            assert after.heard is not None and now - after.heard < STALE_SECONDS
        host = after
