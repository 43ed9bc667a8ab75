"""What a front knows of all hosts and their plugins: values, and what each list and event makes of them. Pure.

Times are seconds of the front's monotonic clock, unless they are texts of a host.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from orchestrator.front.host_state import HostStatus, joining

PluginReport = Mapping[str, Any]
"""A plugin as a host's `GET /v1/plugins` has it."""

_MAX_DISORDER: Final = 2.0
"""Seconds in which a report may still come that is older than the one known, by another connection. One that comes
later and has an older time is believed: the host's clock was set back."""


@dataclass(frozen=True, slots=True)
class KnownPlugin:
    """What a host said last of a plugin, and when that came. `post_mortem`: as the plugin's own route had it last."""

    report: PluginReport
    received: float
    post_mortem: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return str(self.report["name"])

    @property
    def alive(self) -> bool:
        """Whether an instance of it lives."""
        return self.report["state"] not in ("FAILED", "UNAVAILABLE")

    @property
    def parked(self) -> bool:
        """Whether the next run starts it."""
        return bool(self.report["reason_code"] == "PARKED")

    @property
    def idle(self) -> bool:
        """Whether nothing is wrong though none lives: the next run starts it, or an operator stopped it."""
        return self.parked or bool(self.report["reason_code"] == "STOPPED")

    @property
    def load(self) -> int:
        """Runs that execute or wait."""
        return int(self.report["in_flight"]) + int(self.report["queued"])

    @property
    def ready(self) -> int:
        """Instances that take runs."""
        return int(self.report["replicas"]["ready"])


@dataclass(frozen=True, slots=True)
class KnownHost:
    """One host, and its plugins by name.

    `waiting_for`: plugins in their first start, None until it has said so; where its orchestrator is `stopping`, those
    with runs under way.
    """

    name: str
    address: str
    labels: Mapping[str, str]
    status: HostStatus
    plugins: Mapping[str, KnownPlugin] = field(default_factory=dict)
    waiting_for: tuple[str, ...] | None = None
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    """All hosts by name, in the order of hosts.yaml."""

    hosts: Mapping[str, KnownHost] = field(default_factory=dict)

    def __iter__(self) -> Iterator[KnownHost]:
        return iter(self.hosts.values())

    def holding(self, plugin: str) -> list[tuple[KnownHost, KnownPlugin]]:
        """The hosts that have this plugin, with what they say of it."""
        return [(host, known) for host in self if (known := host.plugins.get(plugin)) is not None]

    @property
    def plugins(self) -> list[str]:
        """The names of all plugins, each once, in their order."""
        return sorted({name for host in self for name in host.plugins})

    def with_host(self, host: KnownHost) -> "Directory":
        return Directory({**self.hosts, host.name: host})

    def without_host(self, name: str) -> "Directory":
        return Directory({other: host for other, host in self.hosts.items() if other != name})


def joined(name: str, address: str, labels: Mapping[str, str], now: float) -> KnownHost:
    """A host that nothing is known of yet."""
    return KnownHost(name, address, labels, joining(now))


def labelled(host: KnownHost, labels: Mapping[str, str]) -> KnownHost:
    """The host with these labels of hosts.yaml."""
    return host if labels == host.labels else replace(host, labels=labels)


def listed(host: KnownHost, reports: Iterable[PluginReport], now: float) -> KnownHost:
    """The host has answered with all its plugins: those that are not among them are gone."""
    plugins = {}
    for report in reports:
        known = host.plugins.get(report["name"])
        plugins[str(report["name"])] = KnownPlugin(report, now, _post_mortem(known, report))
    return replace(host, plugins=plugins)


def reported(host: KnownHost, report: PluginReport, now: float) -> KnownHost:
    """The host has said how one plugin is now. A plugin's own route says its `post_mortem` too."""
    known = host.plugins.get(report["name"])
    if known is not None and _out_of_date(known, report, now):
        return host
    post_mortem = report["post_mortem"] if "post_mortem" in report else _post_mortem(known, report)
    listed_fields = {name: value for name, value in report.items() if name != "post_mortem"}
    return replace(host, plugins={**host.plugins, str(report["name"]): KnownPlugin(listed_fields, now, post_mortem)})


def removed(host: KnownHost, plugin: str) -> KnownHost:
    """The host lists this plugin no longer."""
    if plugin not in host.plugins:
        return host
    return replace(host, plugins={name: known for name, known in host.plugins.items() if name != plugin})


def observed(host: KnownHost, status: HostStatus) -> KnownHost:
    """The host with this status."""
    return host if status == host.status else replace(host, status=status)


def readiness(host: KnownHost, waiting_for: tuple[str, ...], *, stopping: bool) -> KnownHost:
    """The host has said for which plugins' first start it waits, or that it stops."""
    if (waiting_for, stopping) == (host.waiting_for, host.stopping):
        return host
    return replace(host, waiting_for=waiting_for, stopping=stopping)


def _out_of_date(known: KnownPlugin, report: PluginReport, now: float) -> bool:
    # ISO 8601 in UTC, written by one program: texts compare as times do.
    older = str(report["observed_at"]) < str(known.report["observed_at"])
    return older and now - known.received < _MAX_DISORDER


def _post_mortem(known: KnownPlugin | None, report: PluginReport) -> Mapping[str, Any] | None:
    """The known one, as long as it is of what the report shows."""
    if known is None or known.report["generation"] != report["generation"]:
        return None
    return known.post_mortem
