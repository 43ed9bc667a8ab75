"""One answer from those of several hosts, with the fields that a single orchestrator's has, and `host` beside. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.front.directory import Directory, KnownHost, KnownPlugin

_BEST_FIRST: Final = {"RUNNING": 0, "INITIALIZED": 1, "LOADED": 2, "FAILED": 3, "UNAVAILABLE": 4}
_PARKED: Final = 5
_SUMMED: Final = ("success_count", "error_count", "in_flight", "queued")


def plugin_list(directory: Directory, now: float) -> list[dict[str, Any]]:
    """All plugins in the order of their names, as `GET /v1/plugins` has them. `now`: the monotonic clock, seconds."""
    held: dict[str, list[tuple[KnownHost, KnownPlugin]]] = {}
    for host in directory:
        for name, known in host.plugins.items():
            held.setdefault(name, []).append((host, known))
    return [merged_plugin(held[name], now) for name in sorted(held)]


def plugin_detail(directory: Directory, name: str, now: float) -> dict[str, Any] | None:
    """One plugin as its own route has it; None where no host has it."""
    held = directory.holding(name)
    if not held:
        return None
    detail = merged_plugin(held, now)
    # While others live, that of one which ended says why the plugin is degraded.
    by_rank = sorted(held, key=lambda each: _rank(*each))
    detail["post_mortem"] = next((known.post_mortem for _, known in by_rank if known.post_mortem is not None), None)
    return detail


def merged_plugin(held: Sequence[tuple[KnownHost, KnownPlugin]], now: float) -> dict[str, Any]:
    """One object for a plugin on one or more hosts: state, container and checks are those of the best, `instances` are
    all of them, and counts are summed up.
    """
    reports = [_as_of(host, known, now) for host, known in held]
    if len(reports) == 1:
        return reports[0]
    ranked = sorted(range(len(held)), key=lambda at: _rank(*held[at]))
    best = reports[ranked[0]]
    newest = max(reports, key=lambda report: report["last_used"] or "")
    runs = sum(report["success_count"] + report["error_count"] for report in reports)
    spent = sum(
        (report["avg_execution_time_ms"] or 0.0) * (report["success_count"] + report["error_count"])
        for report in reports
    )
    alive = [report for (_, known), report in zip(held, reports, strict=True) if known.alive]
    missing = [report for (_, known), report in zip(held, reports, strict=True) if not (known.alive or known.idle)]
    degraded_reason = _what_is_missing(alive, missing) if alive else None
    counted = alive or reports
    # Where it was stopped, or never placed, no instance is missing.
    placed = [report for report in reports if report["reason_code"] != "STOPPED"] or reports[:1]
    return {
        **best,
        **{name: sum(report[name] for report in reports) for name in _SUMMED},
        "last_used": newest["last_used"],
        "last_execution_time_ms": newest["last_execution_time_ms"],
        "avg_execution_time_ms": spent / runs if runs else None,
        "gpus": [gpu for report in counted for gpu in report["gpus"]],
        "replicas": {
            name: sum(report["replicas"][name] for report in placed) for name in ("wanted", "ready", "in_manifest")
        },
        "degraded": degraded_reason is not None,
        "degraded_reason": degraded_reason,
        "instances": [instance for report in reports for instance in report["instances"]],
        "candidate": next((report["candidate"] for report in reports if report["candidate"] is not None), None),
    }


def with_host(value: Any, host: str) -> Any:
    """An answer of one host as the front gives it: a plugin, a run or a GPU says which host it is of."""
    if isinstance(value, list):
        return [with_host(each, host) for each in value]
    if not isinstance(value, Mapping):
        return value
    named = {**value, "host": host}
    if isinstance(instances := value.get("instances"), list):
        named["instances"] = [{**instance, "host": host} for instance in instances]
    if isinstance(candidate := value.get("candidate"), Mapping):
        named["candidate"] = {**candidate, "host": host}
    return named


def gpu_report(reports: Mapping[str, Mapping[str, Any]], silent: Iterable[str] = ()) -> dict[str, Any]:
    """What `GET /v1/gpus` answers, from that of each host. Of what differs between hosts, `hosts` has each one's.

    `silent`: the hosts whose GPUs are not among them.
    """
    found = list(reports.items())
    first = found[0][1] if found else {}
    none_has_any = all(report.get("reason_code") is not None for report in reports.values())
    return {
        **first,
        "reason_code": first.get("reason_code") if none_has_any else None,
        "reason": first.get("reason") if none_has_any else None,
        "devices": _of_all(found, "devices"),
        "quarantines": _of_all(found, "quarantines"),
        "waiting": _of_all(found, "waiting"),
        "hosts": {
            host: {name: value for name, value in report.items() if name not in ("devices", "quarantines", "waiting")}
            for host, report in found
        },
        "silent_hosts": sorted(silent),
    }


def history_report(histories: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `GET /healthz` says of history, from that of each host."""
    several = len(histories) > 1
    sentences = {
        name: [f"{host}: {text}" if several else text for host, history in histories.items() if (text := history[name])]
        for name in ("problem", "notice")
    }
    return {
        **{name: " ".join(each) or None for name, each in sentences.items()},
        "lost": sum(history["lost"] for history in histories.values()),
    }


def _of_all(reports: Iterable[tuple[str, Mapping[str, Any]]], name: str) -> list[Any]:
    return [{**each, "host": host} for host, report in reports for each in report.get(name) or ()]


def _as_of(host: KnownHost, known: KnownPlugin, now: float) -> dict[str, Any]:
    """The report as it is to be shown now: uptimes of those that live go on while the host answers."""
    report: dict[str, Any] = with_host(known.report, host.name)
    if not host.status.answers:
        report["stale"] = True
        return report
    passed = max(0.0, now - known.received)
    if passed and known.alive:
        for each in (report, *report["instances"], *filter(None, (report["candidate"],))):
            if each["uptime_seconds"] is not None and each["state"] not in ("FAILED", "UNAVAILABLE"):
                each["uptime_seconds"] = round(each["uptime_seconds"] + passed, 6)
    return report


def _rank(host: KnownHost, known: KnownPlugin) -> tuple[int, int]:
    state = _BEST_FIRST[known.report["state"]]
    if known.alive:
        # A silent host's plugin may be well, but nobody can call it: one that answers is shown in its stead.
        return (0 if host.status.answers else 1, state)
    # One that is parked says nothing against the others.
    return (2, _PARKED if known.parked else state)


def _what_is_missing(alive: Sequence[Mapping[str, Any]], missing: Sequence[Mapping[str, Any]]) -> str | None:
    """Host by host; None where nothing is."""
    clauses = [f"On {report['host']}: {report['degraded_reason']}" for report in alive if report["degraded"]]
    clauses += [
        f"On {report['host']} it is {report['reason_code'] or report['state']}: {report['reason'] or 'no reason given'}"
        for report in missing
    ]
    return " ".join(clauses) or None
