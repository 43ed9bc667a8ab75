"""One plugin of several hosts' reports."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from unit.front.reports import report

from orchestrator.front.directory import Directory, joined, listed
from orchestrator.front.host_state import HostState, heard
from orchestrator.front.merging import gpu_report, history_report, plugin_detail, plugin_list, with_host


def directory(silent: tuple[str, ...] = (), **reports: dict[str, Any]) -> Directory:
    """One host for each report; names of hosts are those of the arguments."""
    found = Directory()
    for name, each in reports.items():
        host = listed(joined(name, f"http://{name}", {}, 0.0), [each], 10.0)
        status = heard(host.status, 10.0)
        if name in silent:
            status = replace(status, state=HostState.STALE)
        found = found.with_host(replace(host, status=status))
    return found


def merged(silent: tuple[str, ...] = (), **reports: dict[str, Any]) -> dict[str, Any]:
    (plugin,) = plugin_list(directory(silent, **reports), 10.0)
    return plugin


def test_over_one_host_it_is_that_hosts_report() -> None:
    """With the host beside."""
    known = report(success_count=3)
    expected = {**known, "host": "a", "instances": [{**known["instances"][0], "host": "a"}]}
    assert merged(a=known) == expected


def test_counts_are_summed_up_and_instances_are_all() -> None:
    both = merged(
        a=report(success_count=2, error_count=1, in_flight=1, queued=2, avg_execution_time_ms=10.0),
        b=report(success_count=3, in_flight=4, avg_execution_time_ms=40.0),
    )
    assert [both[name] for name in ("success_count", "error_count", "in_flight", "queued")] == [5, 1, 5, 2]
    assert both["avg_execution_time_ms"] == 25.0
    assert both["replicas"] == {"wanted": 2, "ready": 2, "in_manifest": 2}
    assert [instance["host"] for instance in both["instances"]] == ["a", "b"]
    assert (both["degraded"], both["degraded_reason"]) == (False, None)


def test_the_last_use_is_the_latest() -> None:
    early, late = "2026-11-28T10:00:00+00:00", "2026-11-28T11:00:00+00:00"
    both = merged(
        a=report(last_used=late, last_execution_time_ms=7.0), b=report(last_used=early, last_execution_time_ms=9.0)
    )
    assert (both["last_used"], both["last_execution_time_ms"]) == (late, 7.0)


def test_it_is_what_its_best_instance_is() -> None:
    """Whichever host has it."""
    failed = report(state="FAILED", reason_code="CRASHED", reason="It died.")
    both = merged(a=failed, b=report(state="RUNNING"))
    assert (both["state"], both["host"], both["reason_code"]) == ("RUNNING", "b", None)
    assert both["degraded"] is True
    assert both["degraded_reason"] == "On a it is CRASHED: It died."


def test_failed_counts_before_unavailable_and_parked_for_nothing() -> None:
    failed = report(state="FAILED", reason_code="CRASHED")
    missing = report(state="UNAVAILABLE", reason_code="GPU_NOT_FOUND")
    parked = report(state="UNAVAILABLE", reason_code="PARKED")
    assert merged(a=missing, b=failed)["reason_code"] == "CRASHED"
    assert merged(a=parked, b=missing)["reason_code"] == "GPU_NOT_FOUND"
    assert merged(a=parked, b=report())["degraded"] is False


def test_a_silent_host_is_stale_and_never_failed() -> None:
    """What lived there is shown as it was, before anything that has ended elsewhere."""
    failed = report(state="FAILED", reason_code="CRASHED")
    both = merged(silent=("a",), a=report(state="RUNNING"), b=failed)
    assert (both["state"], both["host"], both["stale"]) == ("RUNNING", "a", True)
    answering = merged(silent=("a",), a=report(state="RUNNING"), b=report(state="INITIALIZED"))
    assert (answering["host"], answering["stale"]) == ("b", False)


def test_uptime_goes_on_while_the_host_answers() -> None:
    """Without a report: nothing else has changed. It stands still for what has ended, and while nobody answers."""
    (plugin,) = plugin_list(directory(a=report()), 12.5)
    assert (plugin["uptime_seconds"], plugin["instances"][0]["uptime_seconds"]) == (7.5, 7.5)
    (plugin,) = plugin_list(directory(("a",), a=report()), 12.5)
    assert plugin["uptime_seconds"] == 5.0
    (plugin,) = plugin_list(directory(a=report(state="FAILED", uptime_seconds=3.0)), 12.5)
    assert plugin["uptime_seconds"] == 3.0


def test_what_is_known_is_not_changed_by_being_shown() -> None:
    known = directory(a=report(), b=report(state="FAILED"))
    first = plugin_list(known, 11.0)
    plugin_list(known, 99.0)
    assert plugin_list(known, 11.0) == first


def test_plugins_are_in_the_order_of_their_names() -> None:
    names = [plugin["name"] for plugin in plugin_list(directory(b=report("z"), a=report("a")), 10.0)]
    assert names == ["a", "z"]


def test_a_detail_has_the_post_mortem_of_what_ended() -> None:
    known = directory(a=report(), b=report(state="FAILED"))
    host = known.hosts["b"]
    ended = replace(host.plugins["reader"], post_mortem={"exit_code": 9})
    known = known.with_host(replace(host, plugins={"reader": ended}))
    detail = plugin_detail(known, "reader", 10.0)
    assert detail is not None
    assert (detail["host"], detail["post_mortem"]) == ("a", {"exit_code": 9})
    assert plugin_detail(known, "nobody", 10.0) is None


STATES = st.sampled_from(["LOADED", "INITIALIZED", "RUNNING", "FAILED", "UNAVAILABLE"])


@given(st.dictionaries(st.sampled_from("abcde"), st.tuples(STATES, st.booleans(), st.integers(0, 5)), min_size=1))
def test_no_host_is_lost_and_the_dead_never_hide_the_living(hosts: dict[str, tuple[str, bool, int]]) -> None:
    """Whatever the hosts say, and whichever are silent."""
    silent = tuple(name for name, (_, quiet, _) in hosts.items() if quiet)
    plugin = merged(silent, **{name: report(state=state, in_flight=runs) for name, (state, _, runs) in hosts.items()})
    assert {instance["host"] for instance in plugin["instances"]} == set(hosts)
    assert plugin["in_flight"] == sum(runs for _, _, runs in hosts.values())
    alive = {name for name, (state, _, _) in hosts.items() if state not in ("FAILED", "UNAVAILABLE")}
    if alive:
        assert plugin["host"] in alive
        if alive - set(silent):
            assert plugin["host"] not in silent and not plugin["stale"]
    assert set(plugin) == set(report())


def test_gpus_of_all_hosts() -> None:
    """Each says whose it is; that there are none is said where no host has any."""
    none = {"driver_version": None, "reason_code": "GPU_NOT_FOUND", "reason": "No GPU.", "devices": []}
    some = {"driver_version": "550", "reason_code": None, "reason": None, "devices": [{"uuid": "GPU-1"}]}
    found = gpu_report({"a": none, "b": some}, ["c"])
    assert (found["reason_code"], found["devices"]) == (None, [{"uuid": "GPU-1", "host": "b"}])
    assert (found["hosts"]["b"]["driver_version"], found["silent_hosts"]) == ("550", ["c"])
    assert gpu_report({"a": none})["reason_code"] == "GPU_NOT_FOUND"
    assert gpu_report({}, ["a"])["devices"] == []


def test_history_of_all_hosts() -> None:
    fine = {"problem": None, "notice": None, "lost": 1}
    broken = {"problem": "The disk is full.", "notice": None, "lost": 2}
    assert history_report({"a": fine}) == fine
    assert history_report({"a": fine, "b": broken}) == {"problem": "b: The disk is full.", "notice": None, "lost": 3}


def test_objects_get_their_host_and_values_stay() -> None:
    assert with_host([{"id": 1}, "text"], "a") == [{"id": 1, "host": "a"}, "text"]
    assert with_host({"candidate": {"generation": 2}}, "a")["candidate"] == {"generation": 2, "host": "a"}
