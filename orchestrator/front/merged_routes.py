"""What a front answers by itself, from what it knows of all hosts or from all their answers."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.responses import Response

from orchestrator.access.principal import Principal
from orchestrator.api.concealment import Concealment
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.errors import OrchestratorError
from orchestrator.front import directory, merging
from orchestrator.front.cursors import Cursor, CursorError
from orchestrator.front.front_answers import json_response
from orchestrator.front.host_link import HostAnswer
from orchestrator.front.host_state import HostState
from orchestrator.front.hosts import Hosts
from orchestrator.front.merged_lists import Pages, events_after, newest_events, newest_runs
from orchestrator.front.metrics_text import merged_metrics

_GATHER_SECONDS: Final = 2.0
"""For the answers of all hosts to one question."""
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_HOST_UP: Final = "orchestrator_host_up"


class MergedRoutes:
    """Its answers hold what `principal`, the caller, sees."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def concealment(self, principal: Principal) -> Concealment:
        return Concealment(principal, lambda: self._hosts.directory.plugins)

    # From memory

    async def plugin_list(self, principal: Principal) -> Response:
        """Never waits for longer than `Hosts.fresh_seconds`."""
        await self._hosts.refresh()
        plugins = merging.plugin_list(self._hosts.directory, self._hosts.clock())
        if principal.sees_every_plugin:
            return json_response(plugins)
        shown = self.concealment(principal)
        return json_response([shown.value(plugin) for plugin in plugins if principal.sees(plugin["name"])])

    async def plugin_health(self, name: str, principal: Principal) -> Response:
        """Of the hosts that have the plugin, or may: as they are asked now, else as is known. Never waits for longer
        than `Hosts.fresh_seconds`.
        """
        holding = [host.name for host, _ in self._hosts.directory.holding(name)]
        asked = [host for host in holding or self._hosts.names if self._hosts.worth_waiting(host)]
        await self._hosts.within_health([self._ask_health(host, name) for host in asked], asked)
        detail = merging.plugin_detail(self._hosts.directory, name, self._hosts.clock())
        if detail is None:
            return unknown_plugin(name)
        return json_response(self.concealment(principal).value(detail))

    async def _ask_health(self, host: str, name: str) -> None:
        target = f"/v1/plugins/{quote(name, safe='')}/health"
        answer = await self._hosts.link(host).get(target, within=2 * self._hosts.fresh_seconds)
        known = self._hosts.directory.hosts.get(host)
        if known is None:
            return
        if answer.status == 200:
            self._hosts.put(directory.reported(known, answer.json(), self._hosts.clock()))
        elif answer.status == 404:
            self._hosts.put(directory.removed(known, name))

    def hosts(self) -> Response:
        """GET /v1/hosts: each host with its state."""
        now = self._hosts.clock()
        return json_response([_host_report(host, now) for host in self._hosts.directory])

    async def readiness(self, principal: Principal, *, stopping: bool) -> Response:
        """GET /readyz: 200 once each host that answers is ready, and one does."""
        asked = [host for host in self._hosts.names if self._hosts.worth_waiting(host)]
        await self._hosts.within_health([self._hosts.ask_readiness(host) for host in asked], asked)
        known = list(self._hosts.directory)
        joining = any(map(_is_new, known))
        answering = [host for host in known if host.status.answers]
        waiting = sorted({name for host in answering for name in host.waiting_for or ()})
        if stopping or (answering and all(host.stopping for host in answering)):
            status = "stopping"
        else:
            status = "ready" if answering and not (waiting or joining) else "starting"
        seen = [name for name in waiting if principal.sees(name)]
        return json_response({"status": status, "waiting_for": seen}, 200 if status == "ready" else 503)

    async def liveness(self) -> Response:
        """GET /healthz: 200 while the front serves, with what is wrong with any host's history."""
        histories: dict[str, Mapping[str, Any]] = {}

        async def ask(host: str) -> None:
            answer = (await self._hosts.link(host).get("/healthz", within=2 * self._hosts.fresh_seconds)).json()
            histories[host] = answer["history"]

        asked = [host for host in self._hosts.names if self._hosts.worth_waiting(host)]
        await self._hosts.within_health([ask(host) for host in asked], asked)
        return json_response({"status": "ok", "history": merging.history_report(histories)})

    # From all hosts' answers

    async def gpus(self, principal: Principal) -> Response:
        """GET /v1/gpus."""
        answers = await self._gather("/v1/gpus", principal)
        reports = {host: found for host, answer in answers.items() if isinstance(found := answer.json(), dict)}
        return json_response(merging.gpu_report(reports, set(self._hosts.names) - reports.keys()))

    async def host_of_gpu(self, uuid: str, principal: Principal) -> str | None:
        for host, answer in (await self._gather("/v1/gpus", principal)).items():
            if any(device.get("uuid") == uuid for device in answer.json().get("devices", ())):
                return host
        return None

    async def metrics(self, principal: Principal) -> Response:
        """GET /metrics: those of all hosts that answer, each with the label `host`, and which hosts answer."""
        answers = await self._gather("/metrics", principal, headers=((b"accept", b"text/plain"),))
        text = merged_metrics({host: answer.body.decode("utf-8", "replace") for host, answer in answers.items()})
        lines = [f"# HELP {_HOST_UP} Whether the host answers.", f"# TYPE {_HOST_UP} gauge"]
        lines += [f'{_HOST_UP}{{host="{host.name}"}} {host.status.answers:d}' for host in self._hosts.directory]
        return Response(text + "".join(f"{line}\n" for line in lines), headers={"Content-Type": _METRICS_TYPE})

    async def runs(self, query: bytes, principal: Principal) -> Response:
        """GET /v1/runs: those of all hosts that answer, newest first."""
        names = self._hosts.names
        try:
            parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
            cursor = Cursor.parse(parameters.pop("before"), names) if "before" in parameters else Cursor()
        except CursorError as error:
            return problem(422, f"before: {error}", error_type="InvalidRequest")
        targets = {host: _target("/v1/runs", parameters, "before", cursor, host) for host in names}
        found = await self._pages(targets, principal)
        if isinstance(found, Response):
            return found
        return json_response(newest_runs(found, cursor, names, _limit(parameters)))

    async def events(self, path: str, query: bytes, principal: Principal) -> Response:
        """A list of events; `path` is that of all plugins or of one."""
        names = self._hosts.names
        try:
            parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
            after = parameters.pop("after", None)
            cursor = None if after is None else Cursor.parse(after, names)
        except CursorError as error:
            return problem(422, f"after: {error}", error_type="InvalidRequest")
        # A host that the cursor says nothing of begins at its beginning.
        start = None if cursor is None else Cursor({host: cursor.positions.get(host, 0) for host in names})
        targets = {host: _target(path, parameters, "after", start, host) for host in names}
        found = await self._pages(targets, principal)
        if isinstance(found, Response):
            return found
        limit = _limit(parameters)
        merged = newest_events(found, names, limit) if start is None else events_after(found, start, names, limit)
        return json_response(merged)

    async def _pages(self, targets: Mapping[str, str], principal: Principal) -> Pages | Response:
        """Of each host its page; where none has one, the first refusal."""
        answers = await self._gather(targets, principal)
        pages = {host: answer.json() for host, answer in answers.items() if answer.status == 200}
        if pages or not answers:
            return pages
        refusal = next(iter(answers.values()))
        return Response(refusal.body, status_code=refusal.status, media_type="application/json")

    async def _gather(
        self,
        targets: str | Mapping[str, str],
        principal: Principal,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> dict[str, HostAnswer]:
        """The answers of those hosts that give one, by host."""
        # Not those that are known not to answer: nobody should have to wait for them.
        hosts = [host.name for host in self._hosts.directory if host.status.answers or _is_new(host)]
        asked = [
            self._hosts.link(host).get(
                targets if isinstance(targets, str) else targets[host],
                within=_GATHER_SECONDS,
                caller=principal,
                headers=headers,
            )
            for host in hosts
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        return {host: _answer(each) for host, each in zip(hosts, found, strict=True) if _is_answer(each)}


def _is_new(host: directory.KnownHost) -> bool:
    """Whether it may well answer, and has not been asked."""
    return host.status.state is HostState.JOINING and host.status.problem is None


def _is_answer(found: HostAnswer | BaseException) -> bool:
    if isinstance(found, BaseException) and not isinstance(found, OrchestratorError):
        raise found
    return isinstance(found, HostAnswer)


def _answer(found: HostAnswer | BaseException) -> HostAnswer:
    assert isinstance(found, HostAnswer)  # noqa: S101 - `_is_answer` has looked
    return found


def _host_report(host: directory.KnownHost, now: float) -> dict[str, Any]:
    heard = host.status.heard
    return {
        "name": host.name,
        "address": host.address,
        "labels": dict(host.labels),
        "state": host.status.state,
        "draining": host.status.draining,
        "silent_seconds": None if heard is None else round(max(0.0, now - heard), 3),
        "problem": host.status.problem,
        "plugins": len(host.plugins),
    }


def _target(path: str, parameters: Mapping[str, str], name: str, cursor: Cursor | None, host: str) -> str:
    position = {} if cursor is None or host not in cursor.positions else {name: cursor.positions[host]}
    query = urlencode({**parameters, **position})
    return f"{path}?{query}" if query else path


def _limit(parameters: Mapping[str, str]) -> int:
    """Hosts have checked it: what none accepts has no pages."""
    text = parameters.get("limit", "100")
    return int(text) if text.isdigit() else 100
