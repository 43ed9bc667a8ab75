"""Runs through a front: one host is chosen for each, which executes it at most once; questions about it find that host.

A run has its id before it is sent. What was sent is never sent to another host, whatever becomes of the connection.
"""

import asyncio
import hashlib
import secrets
from functools import partial
from typing import Final

import msgspec
from cachetools import LRUCache
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.access.principal import Principal
from orchestrator.api.body import UploadPace
from orchestrator.api.problems import respond, unknown_plugin
from orchestrator.api.request_headers import FRONT_RUN_ID, preferences
from orchestrator.front import front_answers
from orchestrator.front.forwarded_heads import HOST_HEADER
from orchestrator.front.forwarding import Incoming, Passage
from orchestrator.front.host_link import HostUnreachableError
from orchestrator.front.host_state import HostState
from orchestrator.front.hosts import Hosts
from orchestrator.front.merging import with_host
from orchestrator.front.routing import Choice, hosts_for_run, may_go_on
from orchestrator.sandbox.call import BodyError, RunResult, is_run_id

REDIRECT: Final = "redirect"
"""Preference of a caller that calls the host itself: 307, and where."""
_FIND_SECONDS: Final = 2.0
_MAX_LOCATIONS: Final = 10_000  # runs whose host is known without a question
_MAX_JSON: Final = 1024 * 1024  # bytes of a refusal that is looked into, or of a run


class RunForwarding:
    """`pace`: the slowest that a short body may arrive; a host sees to longer ones itself."""

    def __init__(self, hosts: Hosts, pace: UploadPace, *, dropped: frozenset[bytes]) -> None:
        """`dropped`: names of headers that are not passed on."""
        self._hosts = hosts
        self._pace = pace
        self._dropped = dropped
        self._locations: LRUCache[str, str] = LRUCache(_MAX_LOCATIONS)
        """By run id, the host that it was sent to or found at."""

    async def run(self, plugin: str, tool: str, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/plugins/{name}/tools/{tool}/run."""
        incoming = Incoming(scope, receive)
        try:
            await incoming.open(self._pace)
        except BodyError as error:
            answer = respond(RunResult(error.outcome, error=str(error)), plugin=plugin, tool=tool)
            await answer(scope, receive, send)
            return
        chosen_id = incoming.header(b"x-run-id")
        choice = await self._choose(plugin, incoming, chosen_id)
        if isinstance(choice, Response):
            await choice(scope, receive, send)
            return
        if REDIRECT in preferences(incoming.header(b"prefer") or ""):
            await self._redirect(choice.hosts[0], incoming)(scope, receive, send)
            return
        refused = await self._first_that_takes_it(choice, (plugin, tool), incoming, send, chosen_id)
        if refused is not None:
            await refused(scope, receive, send)

    async def _first_that_takes_it(
        self, choice: Choice, called: tuple[str, str], incoming: Incoming, send: Send, chosen_id: str | None
    ) -> Response | None:
        """None once the caller has been answered. `called`: plugin and tool."""
        plugin, tool = called
        run_id = chosen_id or secrets.token_hex(16)
        more = () if chosen_id is not None else ((FRONT_RUN_ID.encode(), run_id.encode()),)
        failure: HostUnreachableError | None = None
        for host in choice.hosts:
            last = host == choice.hosts[-1]
            try:
                with self._hosts.changing(host, plugin):
                    async with Passage(incoming, self._hosts.link(host), more=more, dropped=self._dropped) as passage:
                        self._locations[run_id] = host
                        self._hosts.answered(host, passage.status)
                        if not last and incoming.body is not None and await self._not_started(passage):
                            continue
                        lost = f"The connection to the host {host} broke."
                        broken = partial(front_answers.run_unknown, lost, host, plugin, tool, run_id)
                        await passage.relay(send, broken=broken)
                        return None
            except HostUnreachableError as error:
                if incoming.disconnected:
                    return None
                if error.sent:
                    return front_answers.run_unknown(str(error), host, plugin, tool, run_id)
                failure = error
        names = choice.hosts if failure is None else [failure.host]
        return front_answers.not_sent(str(failure), names, plugin)

    @staticmethod
    async def _not_started(passage: Passage) -> bool:
        """Whether the host has started nothing, and another one may. Raises `HostUnreachableError`."""
        length = passage.fields.get(b"content-length", b"")
        if passage.status not in (429, 503) or not length.isdigit() or int(length) > _MAX_JSON:
            return False
        body = await passage.read()
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            answer = None
        if isinstance(answer, dict) and may_go_on(passage.status, answer):
            return True
        passage.unread(body)
        return False

    async def _choose(self, plugin: str, incoming: Incoming, chosen_id: str | None) -> Choice | Response:
        wanted = incoming.header(HOST_HEADER)
        if wanted is not None and wanted not in self._hosts.names:
            return front_answers.unknown_host(wanted)
        choice = hosts_for_run(self._hosts.directory, plugin, self._hosts.load, wanted, self._hosts.leaving)
        if not choice.known:
            await self._hosts.refresh()
            choice = hosts_for_run(self._hosts.directory, plugin, self._hosts.load, wanted, self._hosts.leaving)
        if not choice.known:
            return unknown_plugin(plugin)
        if not choice.hosts:
            return front_answers.silent_hosts(plugin, choice.silent)
        if chosen_id is None or len(choice.hosts) + len(choice.silent) == 1 or not is_run_id(chosen_id):
            return choice
        return await self._choose_for_id(choice, chosen_id, incoming.principal)

    async def _choose_for_id(self, choice: Choice, run_id: str, caller: Principal) -> Choice | Response:
        """For an id that the caller chose, and may send again: the host that has it, else always the same one."""
        found = await self._find(run_id, caller)
        if found is not None:
            return Choice((found,))
        if choice.silent:
            return front_answers.run_not_found(run_id, choice.silent)
        by_id = sorted(choice.hosts, key=lambda host: hashlib.sha256(f"{run_id} {host}".encode()).digest())
        # Two requests with one id at the same moment must meet, whatever load each of them sees.
        return Choice((by_id[0],))

    def _redirect(self, host: str, incoming: Incoming) -> Response:
        location = self._hosts.link(host).entry.address + incoming.target.decode("latin-1")
        headers = {"Location": location, "X-Host": host, "Preference-Applied": REDIRECT}
        return Response(status_code=307, headers=headers)

    # One run

    async def about_run(self, run_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Routes below /v1/runs/{run_id}."""
        incoming = Incoming(scope, receive)
        await incoming.open(self._pace)
        answer = await self._about_run(run_id, incoming, send)
        if answer is not None:
            await answer(scope, receive, send)

    async def _about_run(self, run_id: str, incoming: Incoming, send: Send) -> Response | None:
        host = await self._find(run_id, incoming.principal)
        if host is None:
            directory = self._hosts.directory
            silent = [each.name for each in directory if not each.status.answers]
            if silent:
                return front_answers.run_not_found(run_id[:80], silent)
            host = next(iter(directory.hosts))  # which says that there is none
        elif self._hosts.directory.hosts[host].status.state is HostState.STALE:
            return front_answers.run_not_found(run_id[:80], [host])
        try:
            with self._hosts.during(host, incoming.method):
                return await self._at_host(host, incoming, send)
        except HostUnreachableError as error:
            if incoming.disconnected:
                return None
            if error.sent and incoming.method not in ("GET", "HEAD"):
                return front_answers.broken_off(str(error), host)
            return front_answers.run_not_found(run_id[:80], [host])

    async def _at_host(self, host: str, incoming: Incoming, send: Send) -> Response | None:
        async with Passage(incoming, self._hosts.link(host), dropped=self._dropped) as passage:
            if not self._is_a_run(incoming, passage):
                await passage.relay(send)
                return None
            found = msgspec.json.decode(await passage.read())
            return front_answers.json_response(with_host(found, host), passage.status)

    @staticmethod
    def _is_a_run(incoming: Incoming, passage: Passage) -> bool:
        path = incoming.target.partition(b"?")[0]
        return passage.status in (200, 202) and path.count(b"/") == 3 and incoming.method in ("GET", "DELETE")

    async def _find(self, run_id: str, caller: Principal) -> str | None:
        """The host that has this run; None where none that answers has it."""
        if (known := self._locations.get(run_id)) in self._hosts.names:
            return known
        names = self._hosts.names
        if len(names) == 1:
            return names[0]
        if not is_run_id(run_id):
            return None
        asked = [host.name for host in self._hosts.directory if host.status.answers]
        found = await asyncio.gather(*(self._has(host, run_id, caller) for host in asked))
        host = next((host for host, has in zip(asked, found, strict=True) if has), None)
        if host is not None:
            self._locations[run_id] = host
        return host

    async def _has(self, host: str, run_id: str, caller: Principal) -> bool:
        try:
            answer = await self._hosts.link(host).get(f"/v1/runs/{run_id}", within=_FIND_SECONDS, caller=caller)
        except HostUnreachableError:
            return False
        return answer.status == 200
