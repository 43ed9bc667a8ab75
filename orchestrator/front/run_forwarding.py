"""Runs through a front: one host is chosen for each, which executes it at most once; questions about it find that host.

A run has its id before it is sent. What was sent is never sent to another host, whatever becomes of the connection.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from cachetools import LRUCache
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

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
from orchestrator.front.routing import (
    Choice,
    host_of_run,
    hosts_for_run,
    hosts_for_run_id,
    may_go_on,
    may_have_run,
)
from orchestrator.sandbox.call import BodyError, Outcome, RunResult, is_run_id

REDIRECT: Final = "redirect"
"""Preference of a caller that calls the host itself: 307, and where."""
_FIND_SECONDS: Final = 2.0
_MAX_LOCATIONS: Final = 10_000  # runs whose host is known without a question
_MAX_JSON: Final = 1024 * 1024  # bytes of a refusal that is looked into, or of a run


@dataclass(frozen=True, slots=True)
class _Found:
    """What the hosts that answer say of a run. `host` has it; `unclear` did not say whether they have it."""

    host: str | None
    unclear: tuple[str, ...] = ()


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
            await self._redirect(choice.hosts[0], plugin, incoming)(scope, receive, send)
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
            self._locate(run_id, host)  # before it is sent: the answer may never come
            try:
                with self._hosts.changing(host, plugin):
                    async with Passage(incoming, self._hosts.link(host), more=more, dropped=self._dropped) as passage:
                        self._hosts.answered(host, passage.status)
                        if await self._not_started(passage):
                            self._forget(run_id, host)
                            if host != choice.hosts[-1] and incoming.body is not None:
                                continue
                        lost = f"The connection to the host {host} broke."
                        broken = partial(front_answers.run_unknown, lost, host, plugin, tool, run_id)
                        await passage.relay(send, broken=broken)
                        return None
            except HostUnreachableError as error:
                if not error.sent:
                    self._forget(run_id, host)
                if incoming.disconnected:
                    return None
                if error.sent:
                    return front_answers.run_unknown(str(error), host, plugin, tool, run_id)
                failure = error
                if chosen_id is not None:
                    # The same request may have reached it through another front, after the hosts were asked.
                    break
        names = choice.hosts if failure is None else [failure.host]
        return front_answers.not_sent(str(failure), names, plugin)

    @staticmethod
    async def _not_started(passage: Passage) -> bool:
        """Whether the host has started nothing, and another one may. The answer can be relayed still. Raises
        `HostUnreachableError`.
        """
        length = passage.fields.get(b"content-length", b"")
        if passage.status not in (429, 503) or not length.isdigit() or int(length) > _MAX_JSON:
            return False
        body = await passage.read()
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            answer = None
        passage.unread(body)
        return isinstance(answer, dict) and may_go_on(passage.status, answer)

    async def _choose(self, plugin: str, incoming: Incoming, chosen_id: str | None) -> Choice | Response:
        if not self._hosts.names:
            return front_answers.no_hosts()
        wanted = incoming.header(HOST_HEADER)
        if wanted is not None and wanted not in self._hosts.names:
            return front_answers.unknown_host(wanted)
        choice = self._ranked(plugin, wanted)
        if not choice.known:
            await self._hosts.refresh()
            choice = self._ranked(plugin, wanted)
        if not choice.known:
            return unknown_plugin(plugin)
        if chosen_id is not None and is_run_id(chosen_id) and len(self._hosts.names) > 1:
            return await self._choose_for_id(plugin, chosen_id, wanted)
        return choice if choice.hosts else front_answers.silent_hosts(plugin, choice.silent)

    def _ranked(self, plugin: str, wanted: str | None) -> Choice:
        return hosts_for_run(self._hosts.directory, plugin, self._hosts.load, wanted, self._hosts.leaving)

    async def _choose_for_id(self, plugin: str, run_id: str, wanted: str | None) -> Choice | Response:
        """For an id that the caller chose, and may send again: the host that has it, else those it may go to."""
        found = await self._find(run_id)
        choice, directory = self._ranked(plugin, wanted), self._hosts.directory
        host = self._locations.get(run_id, found.host)  # a request with the same id may have been sent meanwhile
        if host is not None and host in directory.hosts:
            if wanted not in (None, host):
                sentence = f"A run with this X-Run-Id was sent to the host {host} already."
                taken = RunResult(Outcome.RUN_ID_TAKEN, error=sentence, error_type="RunIdTaken")
                return respond(taken, plugin=plugin)
            answers = directory.hosts[host].status.answers
            return Choice((host,)) if answers else front_answers.run_not_found(run_id, [host])
        maybe = set(may_have_run(directory, plugin))
        unclear = {*choice.silent, *maybe.intersection(found.unclear)}
        # One that has not answered yet is chosen where the caller names it: it knows itself what it has.
        unclear |= {name for name in maybe - set(choice.hosts) if not directory.hosts[name].status.answers}
        if unclear:
            return front_answers.run_not_found(run_id, sorted(unclear))
        # Two requests with one id at the same moment must meet, whatever load each of them sees.
        by_id = hosts_for_run_id(directory, plugin, choice.hosts, run_id)
        if not by_id:
            return unknown_plugin(plugin)
        self._locate(run_id, by_id[0])
        return Choice(by_id)

    def _redirect(self, host: str, plugin: str, incoming: Incoming) -> Response:
        try:
            location = self._hosts.link(host).entry.address + incoming.target.decode("latin-1")
        except HostUnreachableError as error:
            return front_answers.not_sent(str(error), [host], plugin)
        headers = {"Location": location, "X-Host": host, "Preference-Applied": REDIRECT}
        return Response(status_code=307, headers=headers)

    def _locate(self, run_id: str, host: str) -> None:
        if is_run_id(run_id):  # others are refused by the host, and may be of any length
            self._locations[run_id] = host

    def _forget(self, run_id: str, host: str) -> None:
        """The host has nothing of it."""
        if self._locations.get(run_id) == host:
            del self._locations[run_id]

    # One run

    async def about_run(self, run_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Routes below /v1/runs/{run_id}."""
        incoming = Incoming(scope, receive)
        try:
            await incoming.open(self._pace)
            answer = await self._about_run(run_id, incoming, send)
        except BodyError as error:
            answer = respond(RunResult(error.outcome, error=str(error)))
        if answer is not None:
            await answer(scope, receive, send)

    async def _about_run(self, run_id: str, incoming: Incoming, send: Send) -> Response | None:
        host = await self._host_of(run_id)
        if isinstance(host, Response):
            return host
        try:
            with self._hosts.during(host, incoming.method):
                return await self._at_host(host, incoming, send)
        except HostUnreachableError as error:
            if incoming.disconnected:
                return None
            if error.sent and incoming.method not in ("GET", "HEAD"):
                return front_answers.broken_off(str(error), host)
            return front_answers.run_not_found(run_id[:80], [host])

    async def _host_of(self, run_id: str) -> str | Response:
        """The host that has this run, or is to say that there is none."""
        found, directory = await self._find(run_id), self._hosts.directory
        if not directory.hosts:
            return front_answers.no_hosts()
        if found.host is not None:
            known = directory.hosts.get(found.host)
            silent = known is not None and known.status.state is HostState.STALE
            return front_answers.run_not_found(run_id[:80], [found.host]) if silent else found.host
        unclear = {*found.unclear, *(host.name for host in directory if not host.status.answers)}
        return front_answers.run_not_found(run_id[:80], sorted(unclear)) if unclear else next(iter(directory.hosts))

    async def _at_host(self, host: str, incoming: Incoming, send: Send) -> Response | None:
        async with AsyncExitStack() as stack:
            async with self._while_it_answers(host):
                passage = Passage(incoming, self._hosts.link(host), dropped=self._dropped)
                await stack.enter_async_context(passage)
            if not self._is_a_run(incoming, passage):
                await passage.relay(send)
                return None
            found = msgspec.json.decode(await passage.read())
            return front_answers.json_response(with_host(found, host), passage.status)

    @asynccontextmanager
    async def _while_it_answers(self, host: str) -> AsyncIterator[None]:
        """Wait for an answer that may take any time, and no longer than the host's other answers come. Raises
        `HostUnreachableError` once the host is silent.
        """
        now = asyncio.get_running_loop().time

        def look() -> None:
            known = self._hosts.directory.hosts.get(host)
            if known is not None and known.status.state is HostState.STALE and not limit.expired():
                limit.reschedule(now())

        try:
            async with asyncio.timeout(None) as limit:
                with self._hosts.listening(look):
                    yield
        except TimeoutError:
            raise HostUnreachableError(host, f"The host {host} does not answer.", sent=True) from None

    @staticmethod
    def _is_a_run(incoming: Incoming, passage: Passage) -> bool:
        path = incoming.target.partition(b"?")[0]
        return passage.status in (200, 202) and path.count(b"/") == 3 and incoming.method in ("GET", "DELETE")

    async def _find(self, run_id: str) -> _Found:
        """Which host has this run, whoever made it: the host itself judges who may see it."""
        if (known := self._locations.get(run_id)) in self._hosts.names:
            return _Found(known)
        names = self._hosts.names
        if len(names) == 1:
            return _Found(names[0])
        if not is_run_id(run_id):
            return _Found(None)
        asked = [host.name for host in self._hosts.directory if host.status.answers]
        records = await asyncio.gather(*(self._record(host, run_id) for host in asked))
        unclear = tuple(host for host, record in zip(asked, records, strict=True) if record is None)
        host = host_of_run({host: record for host, record in zip(asked, records, strict=True) if record})
        if host is not None:
            self._locate(run_id, host)
        return _Found(host, unclear)

    async def _record(self, host: str, run_id: str) -> dict[str, Any] | None:
        """The run as this host has it, empty where it has none; None where it did not say."""
        try:
            answer = await self._hosts.link(host).get(f"/v1/runs/{run_id}", within=_FIND_SECONDS)
            record = answer.json()
        except HostUnreachableError:
            return None
        if answer.status == 404:
            return {}
        return record if answer.status == 200 and isinstance(record, dict) else None
