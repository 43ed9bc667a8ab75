"""Which host takes a request."""

from dataclasses import replace
from typing import Any

import pytest
from unit.front.reports import report

from orchestrator.front.directory import Directory, joined, listed
from orchestrator.front.host_state import HostState, drained, heard
from orchestrator.front.routing import (
    Choice,
    host_of_run,
    hosts_for_new,
    hosts_for_plugin,
    hosts_for_run,
    hosts_for_run_id,
    may_go_on,
    may_have_run,
)


def over(silent: str = "", draining: str = "", **reports: dict[str, Any] | None) -> Directory:
    """A host for each report, None for one without plugins. Hosts have letters as names."""
    found = Directory()
    for name, each in reports.items():
        host = listed(joined(name, f"http://{name}", {}, 0.0), [each] if each else [], 1.0)
        status = heard(host.status, 1.0)
        if name in silent:
            status = replace(status, state=HostState.STALE)
        if name in draining:
            status = drained(status, 1.0)
        found = found.with_host(replace(host, status=status))
    return found


def idle(_: str, __: str) -> int:
    return 0


def test_the_least_busy_host_comes_first() -> None:
    """For each instance that it has; what the front has sent and the host not yet reported counts too."""
    busy = report(in_flight=3, replicas={"wanted": 1, "ready": 1, "in_manifest": 1})
    wide = report(in_flight=4, replicas={"wanted": 4, "ready": 4, "in_manifest": 4})
    directory = over(a=busy, b=wide, c=report(queued=2))
    assert hosts_for_run(directory, "reader", idle).hosts == ("b", "c", "a")
    sent = {"b": 40}
    assert hosts_for_run(directory, "reader", lambda host, _: sent.get(host, 0)).hosts == ("c", "a", "b")


def test_where_it_serves_comes_before_where_it_does_not() -> None:
    """Ready, then starting, then parked, then what has ended: that host's answer says why."""
    starting = report(state="LOADED", replicas={"wanted": 1, "ready": 0, "in_manifest": 1})
    directory = over(
        a=report(state="FAILED"), b=report(state="UNAVAILABLE", reason_code="PARKED"), c=starting, d=report(in_flight=9)
    )
    assert hosts_for_run(directory, "reader", idle).hosts == ("d", "c", "b", "a")


def test_a_draining_host_is_the_last_of_those_that_serve() -> None:
    directory = over(draining="a", a=report(), b=report(in_flight=5))
    assert hosts_for_run(directory, "reader", idle).hosts == ("b", "a")


def test_a_silent_host_is_never_chosen() -> None:
    """It is named: the plugin is known."""
    directory = over(silent="a", a=report(), b=report(), c=None)
    assert hosts_for_run(directory, "reader", idle) == Choice(("b",), ("a",))
    alone = over(silent="ab", a=report(), b=report())
    assert hosts_for_run(alone, "reader", idle) == Choice((), ("a", "b"))
    assert hosts_for_run(alone, "reader", idle).known


def test_nobody_has_it() -> None:
    assert not hosts_for_run(over(a=report("other"), b=None), "reader", idle).known
    assert not hosts_for_plugin(over(a=None, b=None), "reader").known


def test_the_hosts_for_an_id_have_one_order_whatever_their_load() -> None:
    """And not always the same one first, nor one where the plugin does not serve."""
    stopped = report(state="UNAVAILABLE", reason_code="STOPPED")
    parked = report(state="UNAVAILABLE", reason_code="PARKED")
    ids = [f"{number:032x}" for number in range(20)]

    def order(directory: Directory, run_id: str) -> tuple[str, ...]:
        return hosts_for_run_id(directory, "reader", hosts_for_run(directory, "reader", idle).hosts, run_id)

    quiet, busy = (over(a=parked, b=report(in_flight=n), c=report(queued=5 - n), d=stopped) for n in (0, 5))
    orders = {run_id: order(quiet, run_id) for run_id in ids}
    assert orders == {run_id: order(busy, run_id) for run_id in ids}
    assert {found[0] for found in orders.values()} == {"a", "b", "c"}
    assert {found[3] for found in orders.values()} == {"d"}


def test_a_host_may_have_a_run_of_a_plugin_that_it_has_or_while_nothing_is_known_of_it() -> None:
    directory = over(silent="ac", a=report(), b=report(), c=None, d=report("other"))
    directory = directory.with_host(joined("e", "http://e", {}, 0.0))
    assert may_have_run(directory, "reader") == ("a", "b", "e")


def test_a_run_that_went_on_from_a_busy_host_is_at_the_next() -> None:
    """Both have it on record."""
    busy, done = {"state": "finished", "reason_code": "GPU_BUSY"}, {"state": "finished", "reason_code": None}
    assert host_of_run({"a": busy, "b": done}) == "b"
    assert host_of_run({"a": done, "b": busy}) == "a"
    assert host_of_run({"a": busy}) == "a"
    assert host_of_run({}) is None


def test_one_host_takes_everything() -> None:
    """Also what is not known of it: its own answer is as without a front. Unless it is silent."""
    assert hosts_for_run(over(a=None), "reader", idle).hosts == ("a",)
    assert hosts_for_plugin(over(a=None), "reader").hosts == ("a",)
    assert hosts_for_run(over(silent="a", a=report()), "reader", idle) == Choice((), ("a",))
    joining = Directory().with_host(joined("a", "http://a", {}, 0.0))
    assert hosts_for_run(joining, "reader", idle).hosts == ("a",)


def test_a_caller_may_name_the_host() -> None:
    directory = over(silent="c", a=report(), b=report(in_flight=9), c=report())
    assert hosts_for_run(directory, "reader", idle, "b") == Choice(("b",))
    assert hosts_for_plugin(directory, "reader", "c") == Choice((), ("c",))


def test_a_question_goes_where_it_lives() -> None:
    directory = over(a=report(state="FAILED"), b=report())
    assert hosts_for_plugin(directory, "reader").hosts == ("b", "a")


def test_a_new_plugin_may_be_anywhere() -> None:
    assert hosts_for_new(over(silent="b", a=None, b=None, c=None)) == ("a", "c")


@pytest.mark.parametrize(
    ("status", "answer", "goes_on"),
    [
        (503, {"reason_code": "GPU_BUSY", "error_type": "Unavailable"}, True),
        (429, {"reason_code": None, "error_type": "QueueFull"}, True),
        (503, {"reason_code": "CRASHED"}, False),
        (502, {"reason_code": "GPU_BUSY"}, False),
        (429, {"error_type": "RateExceeded"}, False),
        (200, {"ok": True}, False),
        (504, {"reason_code": "TIMEOUT"}, False),
    ],
)
def test_another_host_is_tried_only_where_nothing_was_started(
    status: int, answer: dict[str, Any], goes_on: bool
) -> None:
    assert may_go_on(status, answer) is goes_on
