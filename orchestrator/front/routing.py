"""Which host takes a request, in which order hosts are tried, and after which answers another one is. Pure."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.front.directory import Directory, KnownHost, KnownPlugin
from orchestrator.front.host_state import HostState

_NOT_STARTED: Final = frozenset({(503, "GPU_BUSY"), (429, "QueueFull")})
"""Status, and reason code or error type, of answers to runs that were not started, and may be elsewhere."""

_STOPPED: Final = ("PluginUnavailable", "STOPPED")
"""Error type and reason code of a run that was not started because the plugin does not serve there any more. One that
was under way when it was stopped has another error type.
"""

Load = Callable[[str, str], int]
"""How many runs of a plugin (second) this front has sent to a host (first) that have not ended."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`hosts`: those that may take the request, the best first. `silent`: those that could, and do not answer.

    Both are empty where no host has the plugin.
    """

    hosts: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.hosts or self.silent)


def hosts_for_run(
    directory: Directory,
    plugin: str,
    load: Load,
    wanted: str | None = None,
    leaving: Collection[tuple[str, str]] = (),
) -> Choice:
    """The hosts that a run may be sent to: those where the plugin serves, with the least to do for each instance first;
    then those where it does not, whose answer says why. `wanted`: the one that the caller names; `leaving`: host and
    plugin of moves, which are tried after the others that serve.
    """
    if (only := _only(directory, wanted)) is not None:
        return only
    held = directory.holding(plugin)
    answering = [each for each in held if each[0].status.answers]
    ranked = sorted(answering, key=lambda each: _run_rank(each[0], each[1], load, leaving))
    return Choice(tuple(host.name for host, _ in ranked), _silent(held))


def hosts_for_run_id(directory: Directory, plugin: str, hosts: Collection[str], run_id: str) -> tuple[str, ...]:
    """These hosts in the order for a run whose id its caller chose: the same at every front, whatever load it sees.
    Those where the plugin serves, or would at the next run, come first.
    """

    def rank(host: str) -> tuple[bool, bytes]:
        known = directory.hosts[host].plugins.get(plugin)
        serves = known is not None and (known.alive or known.parked)
        return (not serves, hashlib.sha256(f"{run_id} {host}".encode()).digest())

    return tuple(sorted(hosts, key=rank))


def may_have_run(directory: Directory, plugin: str) -> tuple[str, ...]:
    """The hosts that may have a run of this plugin already: those that have it, and those of which nothing is known."""
    return tuple(host.name for host in directory if plugin in host.plugins or host.status.state is HostState.JOINING)


def host_of_run(records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The host that has a run, of those that have a record of it; None where there is none. `records`: by host, as
    `GET /v1/runs/{run_id}` has it.
    """
    # A host that has found no GPU for it has a record too, and the run went on to the next.
    return min(records, key=lambda host: may_go_on(503, records[host]), default=None)


def hosts_for_plugin(directory: Directory, plugin: str, wanted: str | None = None) -> Choice:
    """The hosts that have a plugin, for a question or command: the one that `GET /v1/plugins` shows of it first."""
    if (only := _only(directory, wanted)) is not None:
        return only
    held = directory.holding(plugin)
    answering = [each for each in held if each[0].status.answers]
    ranked = sorted(answering, key=lambda each: (not each[1].alive, -each[1].ready))
    return Choice(tuple(host.name for host, _ in ranked), _silent(held))


def hosts_for_new(directory: Directory) -> tuple[str, ...]:
    """The hosts that may be asked for a plugin that none is known to have: it may have been put there just now."""
    answering = [host for host in directory if host.status.answers]
    return tuple(host.name for host in sorted(answering, key=lambda host: not host.status.takes_new))


def may_go_on(status: int, answer: Mapping[str, Any]) -> bool:
    """Whether another host may be tried after this answer to a run: it says that nothing was started."""
    code, kind = answer.get("reason_code"), answer.get("error_type")
    return (status, code) in _NOT_STARTED or (status, kind) in _NOT_STARTED or (kind, code) == _STOPPED


def _only(directory: Directory, wanted: str | None) -> Choice | None:
    """The choice where there is none: one host is all there is, or is named."""
    hosts = list(directory)
    if wanted is not None:
        hosts = [host for host in hosts if host.name == wanted]
    elif len(hosts) != 1:
        return None
    # One that has not answered yet is tried: it says itself what it lacks.
    trusted = [host for host in hosts if host.status.answers or host.status.state is HostState.JOINING]
    return Choice(tuple(host.name for host in trusted), tuple(host.name for host in hosts if host not in trusted))


def _run_rank(
    host: KnownHost, known: KnownPlugin, load: Load, leaving: Collection[tuple[str, str]]
) -> tuple[int, bool, float, str]:
    # What this front has sent may not be in the host's reports yet, and others send runs too: the larger one counts.
    waiting = max(known.load, load(host.name, known.name))
    serves = 0 if known.alive and known.ready else 1 if known.alive else 2 if known.parked else 3
    last = host.status.draining or (host.name, known.name) in leaving
    return (serves, last, waiting / max(1, known.ready), host.name)


def _silent(held: Sequence[tuple[KnownHost, KnownPlugin]]) -> tuple[str, ...]:
    return tuple(host.name for host, _ in held if not host.status.answers)
