"""Five states, forward only."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import TransitionError
from orchestrator.lifecycle import FINAL_STATES, PluginLifecycleState, check_transition

STATES = ("LOADED", "INITIALIZED", "RUNNING", "FAILED", "UNAVAILABLE")
ALLOWED = {
    ("LOADED", "INITIALIZED"),
    ("LOADED", "FAILED"),
    ("LOADED", "UNAVAILABLE"),
    ("INITIALIZED", "RUNNING"),
    ("INITIALIZED", "FAILED"),
    ("INITIALIZED", "UNAVAILABLE"),
    ("RUNNING", "FAILED"),
    ("RUNNING", "UNAVAILABLE"),
}


def test_there_are_five_states() -> None:
    """Those of the contract, no more and no fewer."""
    assert {state.value for state in PluginLifecycleState} == set(STATES)


@pytest.mark.parametrize(("current", "target"), sorted(ALLOWED))
def test_a_step_forward_is_taken(current: str, target: str) -> None:
    """Each step of the contract is possible."""
    check_transition(PluginLifecycleState(current), PluginLifecycleState(target))


@pytest.mark.parametrize(("current", "target"), sorted(set(product(STATES, STATES)) - ALLOWED))
def test_any_other_step_is_refused(current: str, target: str) -> None:
    """Back, sideways, over a state or to the same one: refused, and the refusal names both states."""
    with pytest.raises(TransitionError, match=f"^{current} cannot become {target}"):
        check_transition(PluginLifecycleState(current), PluginLifecycleState(target))


@pytest.mark.parametrize("state", ["FAILED", "UNAVAILABLE"])
def test_a_final_state_says_that_it_is_final(state: str) -> None:
    """The refusal of a step out of one gives the reason."""
    with pytest.raises(TransitionError, match="it is final"):
        check_transition(PluginLifecycleState(state), PluginLifecycleState.LOADED)


@given(st.lists(st.sampled_from(list(PluginLifecycleState)), max_size=30))
def test_no_way_through_the_states_is_longer_than_three_steps(wishes: list[PluginLifecycleState]) -> None:
    """Whatever is tried, in whatever order, a state is entered once at most and a final one is never left."""
    way = [PluginLifecycleState.LOADED]
    for wish in wishes:
        try:
            check_transition(way[-1], wish)
        except TransitionError:
            continue
        way.append(wish)
    assert len(way) == len(set(way)) <= 4
    assert not FINAL_STATES & set(way[:-1])
