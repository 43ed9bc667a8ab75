"""Commands to a plugin and questions about it, passed on to the host or hosts that have it; and all other routes."""

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.api.body import UploadPace
from orchestrator.api.problems import problem, respond, unknown_plugin
from orchestrator.front import front_answers
from orchestrator.front.forwarded_heads import HOST_HEADER
from orchestrator.front.forwarding import Incoming, Passage
from orchestrator.front.host_link import HostUnreachableError
from orchestrator.front.host_state import HostState
from orchestrator.front.hosts import Hosts
from orchestrator.front.merging import plugin_detail, with_host
from orchestrator.front.placing import Placing
from orchestrator.front.routing import Choice, hosts_for_new, hosts_for_plugin
from orchestrator.loader.manifest import MAX_REPLICAS
from orchestrator.sandbox.call import BodyError, RunResult

_OF_ALL: Final = frozenset({"restart", "start", "stop", "park"})
"""Commands that mean the plugin on each of its hosts, one after the other, where the caller names none."""
_OF_ONE: Final = frozenset({"scale", "update", "revert"})
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_EACH_HOSTS: Final = re.compile(rb"/v1/(?:host|webhooks)(?:/.*)?")
"""Routes that each host answers in its own way, also where nothing is changed."""
_WITH_HOST: Final = _OF_ALL | _OF_ONE | {"updates"}
"""Routes whose answers are objects that get a `host`."""


class PluginForwarding:
    """`pace`: the slowest that a short body may arrive."""

    def __init__(self, hosts: Hosts, placing: Placing, pace: UploadPace, *, dropped: frozenset[bytes]) -> None:
        """`dropped`: names of headers that are not passed on."""
        self._hosts = hosts
        self._placing = placing
        self._pace = pace
        self._dropped = dropped

    async def plugin(self, plugin: str, action: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A route below /v1/plugins/{name}; `action` is the path's last part."""
        await self._answered(scope, receive, send, lambda incoming: self._plugin(plugin, action, incoming, send))

    async def host(self, host: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Any route, at this host; with None at the first one that answers."""
        await self._answered(scope, receive, send, lambda incoming: self._at_or_first(host, incoming, send))

    async def other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A route that is no plugin's and no run's: at the host that the caller names, or at any where all answer the
        same.
        """
        await self._answered(scope, receive, send, lambda incoming: self._other(incoming, send))

    async def _answered(self, scope: Scope, receive: Receive, send: Send, work: Any) -> None:
        incoming = Incoming(scope, receive)
        try:
            await incoming.open(self._pace)
            answer = await work(incoming)
        except BodyError as error:
            answer = respond(RunResult(error.outcome, error=str(error)))
        if answer is not None:
            await answer(scope, receive, send)

    async def _other(self, incoming: Incoming, send: Send) -> Response | None:
        wanted = incoming.header(HOST_HEADER)
        if wanted is not None and wanted not in self._hosts.names:
            return front_answers.unknown_host(wanted)
        path = incoming.target.partition(b"?")[0]
        if wanted is None and len(self._hosts.names) > 1 and _is_one_hosts(incoming.method, path):
            return front_answers.host_required(None, sorted(self._hosts.names))
        return await self._at_or_first(wanted, incoming, send)

    async def _at_or_first(self, host: str | None, incoming: Incoming, send: Send) -> Response | None:
        hosts = hosts_for_new(self._hosts.directory) or tuple(self._hosts.names)
        first = host if host is not None else next(iter(hosts), None)
        return front_answers.no_hosts() if first is None else await self._at(first, incoming, send)

    async def _plugin(self, plugin: str, action: str, incoming: Incoming, send: Send) -> Response | None:
        choice = await self._choose(plugin, action, incoming)
        if isinstance(choice, Response):
            return choice
        if incoming.method == "POST" and action in _OF_ALL | _OF_ONE and incoming.header(HOST_HEADER) is None:
            return await self._where_placed(plugin, action, choice, incoming, send)
        return await self._at(choice.hosts[0], incoming, send, plugin, named=action in _WITH_HOST)

    async def _where_placed(
        self, plugin: str, action: str, choice: Choice, incoming: Incoming, send: Send
    ) -> Response | None:
        """A command whose caller names no host."""
        placed = self._placed(plugin, choice)
        if (action == "start" or (action == "restart" and not placed.known)) and len(self._hosts.names) > 1:
            return await self._placing.start(plugin, incoming.query, incoming.principal)
        meant = Choice(placed.hosts or choice.hosts, placed.silent)
        if action in _OF_ALL:
            # One that has not answered yet may have it as well as one that was known to.
            unknown = [host.name for host in self._hosts.directory if host.status.state is HostState.JOINING]
            meant = Choice(meant.hosts, (*meant.silent, *unknown))
        if len(meant.hosts) + len(meant.silent) == 1:
            return await self._at(meant.hosts[0], incoming, send, plugin, named=True)
        if action in _OF_ALL:
            return await self._at_each(plugin, action, meant, incoming)
        if action == "scale" and not meant.silent and (replicas := _replicas(incoming.body)) >= len(meant.hosts):
            return await self._placing.scale(plugin, meant.hosts, replicas, incoming.principal)
        return front_answers.host_required(plugin, sorted((*meant.hosts, *meant.silent)))

    def _placed(self, plugin: str, choice: Choice) -> Choice:
        """Those of the hosts where it was not stopped: others have it in the stead of those where it was."""
        held = {host.name: known.report["reason_code"] for host, known in self._hosts.directory.holding(plugin)}
        hosts, silent = ([h for h in each if held.get(h) != "STOPPED"] for each in (choice.hosts, choice.silent))
        return Choice(tuple(hosts), tuple(silent))

    async def _choose(self, plugin: str, action: str, incoming: Incoming) -> Choice | Response:
        wanted = incoming.header(HOST_HEADER)
        if wanted is not None and wanted not in self._hosts.names:
            return front_answers.unknown_host(wanted)
        choice = hosts_for_plugin(self._hosts.directory, plugin, wanted)
        if not choice.known:
            await self._hosts.refresh()
            choice = hosts_for_plugin(self._hosts.directory, plugin, wanted)
        if not choice.known:
            return await self._unknown(plugin, action, incoming)
        return choice if choice.hosts else front_answers.silent_hosts(plugin, choice.silent)

    async def _unknown(self, plugin: str, action: str, incoming: Incoming) -> Choice | Response:
        """No host is known to have it: its folder may be new, and what is in the history has no folder any more."""
        probe = "post-mortem" if action in ("post-mortem", "events") else "health"
        for host in hosts_for_new(self._hosts.directory):
            if action in ("start", "restart"):
                # These look for a new folder themselves, and nothing else than these does.
                found = await self._command(host, incoming)
                if found is None:
                    return _nobody()  # that host may have begun it
                if found.status_code != 404:
                    return found
            elif await self._has(host, f"/v1/plugins/{quote(plugin, safe='')}/{probe}", incoming):
                return Choice((host,))
        return unknown_plugin(plugin)

    async def _has(self, host: str, target: str, incoming: Incoming) -> bool:
        try:
            answer = await self._hosts.link(host).get(target, within=1.0, caller=incoming.principal)
        except (HostUnreachableError, ValueError):
            return False
        return answer.status == 200

    async def _at_each(self, plugin: str, action: str, choice: Choice, incoming: Incoming) -> Response:
        """At one host after the other, so that those that serve are never all stopped at once. The first refusal ends
        it: the hosts that come later stay as they are. With silent hosts it is not done, which the answer says.
        """
        status = 200
        for host in choice.hosts:
            answer = await self._command(host, incoming)
            if answer is None:
                return _nobody()
            if answer.status_code not in (200, 202):
                return answer
            status = max(status, answer.status_code)
        if choice.silent:
            return front_answers.not_everywhere(plugin, action, choice.hosts, choice.silent)
        await self._hosts.refresh()
        detail = plugin_detail(self._hosts.directory, plugin, self._hosts.clock())
        return unknown_plugin(plugin) if detail is None else front_answers.json_response(detail, status)

    async def _command(self, host: str, incoming: Incoming) -> Response | None:
        """The whole answer of one host; None where the caller has disconnected."""
        if incoming.body is None:
            return problem(413, "A command has no body of this size.", error_type="TooLarge")
        try:
            with self._hosts.during(host, incoming.method):
                async with Passage(incoming, self._hosts.link(host), dropped=self._dropped) as passage:
                    answer = _whole(passage, await passage.read(), host, named=True)
        except HostUnreachableError as error:
            return None if incoming.disconnected else _failed(error, None, changes=True)
        # What it has begun there is known before anybody counts on it: the host may be silent a moment later.
        await self._hosts.relist(host)
        return answer

    async def _at(
        self, host: str, incoming: Incoming, send: Send, plugin: str | None = None, *, named: bool = False
    ) -> Response | None:
        """None once the caller has been answered. `named`: objects in the answer get a `host`."""
        try:
            with self._hosts.during(host, incoming.method):
                async with Passage(incoming, self._hosts.link(host), dropped=self._dropped) as passage:
                    if not named or incoming.method == "HEAD":
                        await passage.relay(send)
                        return None
                    answer = _whole(passage, await passage.read(), host, named=True)
        except HostUnreachableError as error:
            if incoming.disconnected:
                return None
            return _failed(error, plugin, changes=incoming.method not in ("GET", "HEAD"))
        if incoming.method == "POST":
            await self._hosts.relist(host)
        return answer


def _nobody() -> Response:
    """The caller has disconnected: nobody is left to read it."""
    return Response(status_code=204)


def _is_one_hosts(method: str, path: bytes) -> bool:
    """Whether the route shows or changes what each host has for itself."""
    if not path.startswith(b"/v1/"):
        return False
    return method not in _READS or _EACH_HOSTS.fullmatch(path) is not None


def _replicas(body: bytes | None) -> int:
    """Of the body of a `scale`; 0 where that is none, which a host says best."""
    try:
        found = msgspec.json.decode(body or b"", type=dict[str, int])
    except (msgspec.DecodeError, RecursionError):
        return 0
    return found["replicas"] if found.keys() == {"replicas"} and found["replicas"] <= MAX_REPLICAS else 0


def _whole(passage: Passage, body: bytes, host: str, *, named: bool) -> Response:
    headers = {"X-Host": host}
    if (wait := passage.fields.get(b"retry-after")) is not None:
        headers["Retry-After"] = wait.decode("latin-1")
    content_type = passage.fields.get(b"content-type", b"").decode("latin-1")
    if named and passage.status in (200, 202) and content_type.startswith("application/json"):
        body = msgspec.json.encode(with_host(msgspec.json.decode(body), host))
    return Response(body, status_code=passage.status, headers=headers, media_type=content_type or None)


def _failed(error: HostUnreachableError, plugin: str | None, *, changes: bool) -> Response:
    if error.sent and changes:
        return front_answers.broken_off(str(error), error.host, plugin)
    return front_answers.not_sent(str(error), [error.host], plugin)
