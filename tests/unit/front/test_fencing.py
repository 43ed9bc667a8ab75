"""Which hosts end what was moved away from them by force. Pure."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.front.epochs import Fenced, next_number, outdated

HOSTS = ("a", "b", "c")


def epoch(number: int, to: str, *ends: str) -> dict[str, Any]:
    return {"number": number, "to": to, "ends": list(ends)}


def having(*hosts: str) -> dict[str, frozenset[str]]:
    return {host: frozenset({"reader"}) for host in hosts}


def test_a_host_that_has_not_seen_the_move_ends_its_own() -> None:
    moved = epoch(1, "b", "a")
    assert outdated({"a": {}, "b": {"reader": moved}}, having("a", "b")) == [Fenced("a", "reader", moved)]


def test_one_that_has_seen_it_is_left_alone() -> None:
    """What serves there now an operator has started since."""
    moved = epoch(1, "b", "a")
    assert outdated({"a": {"reader": moved}, "b": {"reader": moved}}, having("a", "b")) == []


def test_a_host_that_the_move_is_not_about_is_left_alone() -> None:
    """Such as a further host of a plugin that is on several."""
    moved = epoch(1, "b", "a")
    assert outdated({"b": {"reader": moved}, "c": {}}, having("b", "c")) == []


def test_a_host_without_the_plugin_has_nothing_to_end() -> None:
    assert outdated({"a": {}, "b": {"reader": epoch(1, "b", "a")}}, having("b")) == []


def test_of_two_moves_at_the_same_moment_one_holds() -> None:
    """Two fronts made the same number, each on another host."""
    epochs = {"a": {}, "b": {"reader": epoch(2, "b", "a")}, "c": {"reader": epoch(2, "c", "a")}}
    found = outdated(epochs, having("a", "b", "c"))
    assert [(each.host, each.epoch["to"]) for each in found] == [("a", "c"), ("b", "c")]


def test_two_moves_away_from_silent_hosts_end_both_in_whatever_order_they_return() -> None:
    """From a to b, then from b to c."""
    first, second = epoch(1, "b", "a"), epoch(2, "c", "b")
    (found,) = outdated({"b": {"reader": first}, "c": {"reader": second}}, having("b", "c"))
    assert (found.host, found.epoch) == ("b", epoch(2, "c", "b", "a")), "what b had on file of a is not lost"
    seen = {"a": {}, "b": {"reader": found.epoch}, "c": {"reader": second}}
    assert outdated(seen, having("a", "b", "c")) == [Fenced("a", "reader", found.epoch)]
    both = outdated({**seen, "b": {"reader": first}}, having("a", "b", "c"))
    assert both == [Fenced("a", "reader", second), Fenced("b", "reader", second)]
    obeyed = {host: {"reader": second} for host in "abc"}
    assert outdated(obeyed, having("a", "b", "c")) == []


epochs_of = st.builds(epoch, st.integers(1, 4), st.sampled_from(HOSTS), st.sampled_from(HOSTS))
seen_of = st.dictionaries(st.sampled_from(HOSTS), st.one_of(st.just({}), epochs_of.map(lambda each: {"reader": each})))


@given(seen_of)
def test_the_newest_moves_own_host_is_never_fenced(seen: dict[str, Any]) -> None:
    """So that one host serves; and each that is fenced is so for the newest epoch."""
    known = [each["reader"] for each in seen.values() if each]
    found = outdated(seen, having(*HOSTS))
    if not known:
        assert found == []
        return
    newest = max((each["number"], each["to"]) for each in known)
    for fenced in found:
        assert (fenced.epoch["number"], fenced.epoch["to"]) == newest
        own = seen[fenced.host].get("reader")
        assert own is None or (own["number"], own["to"]) < newest


@given(seen_of)
def test_a_host_that_has_obeyed_is_not_fenced_again(seen: dict[str, Any]) -> None:
    """However many fronts tell it."""
    found = outdated(seen, having(*HOSTS))
    after = {**seen, **{each.host: {"reader": each.epoch} for each in found}}
    assert outdated(after, having(*HOSTS)) == []


def test_a_later_move_has_the_higher_number_though_the_host_of_the_one_before_is_silent() -> None:
    first = next_number(0, 1_000.9)
    assert first == 1000
    assert next_number(0, 1_004.0) > first
    # Also where a clock was set back, as far as hosts answer.
    assert next_number(first, 900.0) == first + 1
