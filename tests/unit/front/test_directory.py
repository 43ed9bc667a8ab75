"""What lists, events and times make of the directory."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from unit.front.reports import report

from orchestrator.front.directory import Directory, KnownHost, joined, listed, readiness, removed, reported

NAMES = st.sampled_from(["a", "b", "c"])


def host(name: str = "gpu-1", *reports: dict[str, Any], now: float = 0.0) -> KnownHost:
    return listed(joined(name, f"http://{name}", {}, 0.0), reports, now)


def test_a_list_is_all_that_there_is() -> None:
    """What it does not name is gone."""
    known = listed(host("gpu-1", report("a"), report("b")), [report("b"), report("c")], 1.0)
    assert sorted(known.plugins) == ["b", "c"]
    assert known.plugins["b"].received == 1.0


def test_a_report_replaces_what_was_known() -> None:
    known = reported(host("gpu-1", report("a")), report("a", in_flight=2), 1.0)
    assert (known.plugins["a"].load, known.plugins["a"].received) == (2, 1.0)


def test_an_older_report_that_comes_later_is_dropped() -> None:
    """Lists and events come by different connections."""
    known = host("gpu-1", report("a", success_count=2, observed_at="2026-11-28T10:00:01+00:00"), now=5.0)
    assert reported(known, report("a", success_count=1), 5.5) is known


def test_a_clock_that_was_set_back_is_believed_in_the_end() -> None:
    known = host("gpu-1", report("a", observed_at="2026-11-28T10:00:01+00:00"), now=5.0)
    assert reported(known, report("a", success_count=1), 9.0).plugins["a"].report["success_count"] == 1


def test_a_post_mortem_is_known_as_long_as_its_instance_is_shown() -> None:
    """The list does not have it, the plugin's own route does."""
    ended = report("a", "FAILED")
    known = reported(host("gpu-1", ended), {**ended, "post_mortem": {"exit_code": 1}}, 1.0)
    assert known.plugins["a"].post_mortem == {"exit_code": 1}
    assert "post_mortem" not in known.plugins["a"].report
    known = reported(known, ended, 2.0)
    assert known.plugins["a"].post_mortem == {"exit_code": 1}
    known = listed(known, [report("a", generation=2)], 3.0)
    assert known.plugins["a"].post_mortem is None


def test_a_removed_plugin_is_no_longer_there() -> None:
    known = removed(host("gpu-1", report("a"), report("b")), "a")
    assert sorted(known.plugins) == ["b"]
    assert removed(known, "nobody") is known


def test_the_same_readiness_changes_nothing() -> None:
    """So nobody is woken for it."""
    known = readiness(host(), ("a",), stopping=False)
    assert known.waiting_for == ("a",)
    assert readiness(known, ("a",), stopping=False) is known


def test_a_plugin_on_several_hosts() -> None:
    directory = Directory()
    for known in (host("b", report("reader")), host("a", report("reader"), report("writer"))):
        directory = directory.with_host(known)
    assert [each.name for each, _ in directory.holding("reader")] == ["b", "a"]
    assert directory.plugins == ["reader", "writer"]
    assert [each.name for each in directory.without_host("b")] == ["a"]


@given(st.lists(st.one_of(
    st.tuples(st.just("listed"), st.sets(NAMES)),
    st.tuples(st.just("reported"), NAMES),
    st.tuples(st.just("removed"), NAMES),
)))  # fmt: skip
def test_after_any_changes_the_plugins_are_those_of_the_last_list_and_since(changes: list[tuple[str, Any]]) -> None:
    known, expected = host(), set[str]()
    for at, (kind, what) in enumerate(changes):
        time = f"2026-11-28T10:{at // 60:02}:{at % 60:02}+00:00"
        if kind == "listed":
            known, expected = listed(known, [report(name, observed_at=time) for name in what], at), set(what)
        elif kind == "reported":
            known, expected = reported(known, report(what, observed_at=time), at), expected | {what}
        else:
            known, expected = removed(known, what), expected - {what}
        assert set(known.plugins) == expected
