"""Placing: asks the hosts what a plugin wants and what they have, and starts it where the placement says."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs, quote

import msgspec
from starlette.responses import Response

from orchestrator.access.principal import ANYONE, Principal
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.errors import OrchestratorError
from orchestrator.front import front_answers
from orchestrator.front.front_answers import json_response
from orchestrator.front.host_link import HostAnswer, HostUnreachableError
from orchestrator.front.hosts import Hosts
from orchestrator.front.merging import plugin_detail
from orchestrator.front.placement import Placement, place
from orchestrator.front.placement_facts import has_failed, host_facts, placement_report, plugin_wants

_ASK_SECONDS: Final = 2.0
_COMMAND_SECONDS: Final = 130.0
"""For a command, besides the time that its caller wants to wait: it may wait for containers to end first."""
_GRANT_SECONDS: Final = 5.0
"""For a host to say whether it grants the GPUs. One that has to park a plugin first takes longer, and serves then."""
_LOOK_INTERVAL: Final = 0.1
_JSON: Final = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Looked:
    """What the hosts say of one plugin. `answers`: by host, those to the question; `wants`: as the best of them has
    it, None where no host that answers has a valid manifest.
    """

    plugin: str
    answers: Mapping[str, Mapping[str, Any]]
    wants: Mapping[str, Any] | None
    placement: Placement

    @property
    def highest_epoch(self) -> int:
        """Of all hosts that answer; 0 where there was no forced move."""
        return max((int(answer["epoch"]["number"]) for answer in self.answers.values()), default=0)


class Placing:
    """One per front."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def look(
        self, plugin: str, leaving: Collection[str] = (), *, scaled: tuple[tuple[str, ...], int] | None = None
    ) -> Looked:
        """The placement of a plugin as it would be now. `leaving`: hosts that it is moved away from; `scaled`: in place
        of the manifest's, the hosts that it is on and the instances that it is to have there.
        """
        known = [host for host in self._hosts.directory if not host.status.ended]
        asked = [host.name for host in known if host.status.answers]
        # The front's own questions: what its caller may not see must not change where a plugin is placed.
        answers = await self._ask(asked, f"{plugin_path(plugin)}/placement")
        serving = {host.name for host, found in self._hosts.directory.holding(plugin) if found.alive}
        by_rank = sorted(answers, key=lambda host: (host not in serving, host))
        wants = next((found for host in by_rank if (found := answers[host]["wants"]) is not None), None)
        if wants is None:
            return Looked(plugin, answers, None, Placement())
        gpus = await self._ask(asked, "/v1/gpus") if wants["gpu"] is not None else {}
        facts = [host_facts(host, plugin, answers.get(host.name), gpus.get(host.name)) for host in known]
        wanted = plugin_wants(plugin, wants)
        if scaled is not None:
            wanted = replace(wanted, hosts=scaled[0], replicas=scaled[1])
        return Looked(plugin, answers, wants, place(wanted, facts, leaving))

    async def report(self, plugin: str) -> Response:
        """GET /v1/plugins/{name}/placement: each host, and the rule that accepted or refused it."""
        looked = await self.look(plugin)
        if not looked.answers and not self._hosts.directory.holding(plugin):
            return unknown_plugin(plugin)
        return json_response(placement_report(plugin, looked.wants, looked.placement))

    async def start(self, plugin: str, query: bytes, caller: Principal) -> Response:
        """POST /v1/plugins/{name}/start, where the caller names no host and several may have it."""
        looked = await self.look(plugin)
        if looked.wants is None:
            return self._unplaceable(looked)
        chosen, spare = dict(looked.placement.chosen), list(looked.placement.spare)
        if not chosen:
            return self._nowhere(looked)
        wait = _seconds(query)
        # Where it is spread, each host has its share; on a single one an operator's own number stays.
        spread, gpu = len(chosen) > 1, looked.wants["gpu"] is not None
        started: list[str] = []
        while chosen:
            host, replicas = next(iter(chosen.items()))
            del chosen[host]
            refused = await self.start_on(
                host, plugin, caller, wait=wait, replicas=replicas if spread else None, gpu=gpu
            )
            if refused is None:
                started.append(host)
                continue
            if self.is_busy(host, plugin) and spare:
                following = spare.pop(0)
                # Nothing is wrong with it there, and that host's next start shall not try again by itself.
                await self._hand_over(host, plugin, following, caller)
                chosen[following] = replicas
                continue
            return refused
        for other, _ in self._hosts.directory.holding(plugin):
            # What failed elsewhere before is no fault of the plugin where it serves now.
            if other.status.answers and other.name not in started and has_failed(other, plugin):
                await self._hand_over(other.name, plugin, started[0], caller)
        return await self.detail(plugin)

    async def scale(self, plugin: str, hosts: Collection[str], replicas: int, caller: Principal) -> Response:
        """POST /v1/plugins/{name}/scale of a plugin on several `hosts`: so many instances together on those where it
        serves, or on all where it serves on none. 409, with nothing changed, where one of them takes no share.
        """
        held = [(host.name, known) for host, known in self._hosts.directory.holding(plugin) if host.name in hosts]
        serving = tuple(host for host, known in held if known.alive or known.parked) or tuple(hosts)
        looked = await self.look(plugin, scaled=(serving, replicas))
        if looked.wants is None:
            return self._unplaceable(looked)
        verdicts = looked.placement.verdicts
        refusals = [each.sentence for each in verdicts if each.host in serving and not each.chosen]
        if refusals:
            sentence = f"{plugin} was not scaled. {' '.join(refusals)} Scale it on one host with the header `X-Host`."
            return problem(409, sentence, error_type="NoSuitableHost", plugin=plugin)
        for host, share in looked.placement.chosen.items():
            try:
                target = f"{plugin_path(plugin)}/scale"
                answer = await self.command(host, target, caller, body={"replicas": share})
            except HostUnreachableError as error:
                return front_answers.broken_off(str(error), host, plugin)
            if answer.status != 200:
                return passed_on(answer)
        return await self.detail(plugin)

    async def start_on(
        self, host: str, plugin: str, caller: Principal, *, wait: float, replicas: int | None = None, gpu: bool = False
    ) -> Response | None:
        """Start it there, with so many instances. Returns the refusal, None where it starts or serves. `gpu`: returns
        once it has its GPUs; where they are refused, `is_busy` says so then.
        """
        try:
            if replicas is not None and self._wanted(host, plugin) != replicas:
                scaled = await self.command(
                    host, f"{plugin_path(plugin)}/scale", caller, body={"replicas": replicas}, within=_COMMAND_SECONDS
                )
                if scaled.status != 200:
                    return passed_on(scaled)
            target = f"{plugin_path(plugin)}/start?wait={wait:g}"
            answer = await self.command(host, target, caller, within=wait + _COMMAND_SECONDS)
        except HostUnreachableError as error:
            if error.sent:
                return front_answers.broken_off(str(error), host, plugin)
            return front_answers.not_sent(str(error), [host], plugin)
        if answer.status != 200:
            return passed_on(answer)
        if gpu:
            await self._granted(host, plugin)
        return passed_on(answer) if self.is_busy(host, plugin) else None

    def is_busy(self, host: str, plugin: str) -> bool:
        """Whether that host has refused it for want of a free GPU."""
        known = self._hosts.directory.hosts[host].plugins.get(plugin)
        return known is not None and known.report["reason_code"] == "GPU_BUSY"

    async def command(
        self,
        host: str,
        target: str,
        caller: Principal = ANYONE,
        *,
        body: Mapping[str, Any] | None = None,
        within: float = _COMMAND_SECONDS,
    ) -> HostAnswer:
        """A POST at one host, and then its plugins as they are after it. Raises `HostUnreachableError`."""
        content = b"" if body is None else msgspec.json.encode(body)
        with self._hosts.changing(host):
            answer = await self._hosts.link(host).get(
                target, method="POST", body=content, headers=_JSON if content else (), within=within, caller=caller
            )
        await self._hosts.relist(host)
        return answer

    async def detail(self, plugin: str) -> Response:
        """The plugin as it is now, of all hosts."""
        await self._hosts.refresh()
        found = plugin_detail(self._hosts.directory, plugin, self._hosts.clock())
        return unknown_plugin(plugin) if found is None else json_response(found)

    # Inside

    async def _ask(self, hosts: Collection[str], target: str) -> dict[str, Mapping[str, Any]]:
        """The answers of those that give one with 200."""

        async def ask(host: str) -> Mapping[str, Any] | None:
            try:
                answer = await self._hosts.link(host).get(target, within=_ASK_SECONDS)
                found = answer.json() if answer.status == 200 else None
            except OrchestratorError:
                return None
            return found if isinstance(found, dict) else None

        found = await asyncio.gather(*map(ask, hosts))
        return {host: answer for host, answer in zip(hosts, found, strict=True) if answer is not None}

    async def _granted(self, host: str, plugin: str) -> None:
        """Returns once the host has said whether it grants the GPUs that it needs."""
        end = self._hosts.clock() + _GRANT_SECONDS
        while self._hosts.clock() < end:
            known = self._hosts.directory.hosts[host].plugins.get(plugin)
            if known is None or known.report["state"] != "LOADED" or known.report["gpus"]:
                return
            await asyncio.sleep(_LOOK_INTERVAL)
            await self._hosts.relist(host)

    async def _hand_over(self, host: str, plugin: str, to: str, caller: Principal) -> None:
        try:
            await self.command(host, f"{plugin_path(plugin)}/hand-over", caller, body={"to": to})
        except HostUnreachableError:
            return  # it has nothing of the plugin either way

    def _wanted(self, host: str, plugin: str) -> int | None:
        known = self._hosts.directory.hosts[host].plugins.get(plugin)
        return None if known is None else int(known.report["replicas"]["wanted"])

    def _unplaceable(self, looked: Looked) -> Response:
        held = [host.name for host, _ in self._hosts.directory.holding(looked.plugin)]
        silent = [name for name in held if not self._hosts.directory.hosts[name].status.answers]
        if not held and not looked.answers:
            return unknown_plugin(looked.plugin)
        if silent and not looked.answers:
            return front_answers.silent_hosts(looked.plugin, silent)
        sentence = (
            f"The manifest of {looked.plugin} is not valid on any host that answers; its health says what is wrong."
        )
        return problem(409, sentence, error_type="NoSuitableHost", plugin=looked.plugin)

    @staticmethod
    def _nowhere(looked: Looked) -> Response:
        reasons = " ".join(verdict.sentence for verdict in looked.placement.verdicts)
        sentence = f"{looked.plugin} was not started: no host takes it. {reasons}"
        return problem(409, sentence, error_type="NoSuitableHost", plugin=looked.plugin)


def passed_on(answer: HostAnswer, status: int | None = None) -> Response:
    """A host's answer as the front's own."""
    headers = {"X-Host": answer.host}
    return Response(answer.body, status or answer.status, headers=headers, media_type="application/json")


def plugin_path(plugin: str) -> str:
    """The path of its routes."""
    return f"/v1/plugins/{quote(plugin, safe='')}"


def _seconds(query: bytes) -> float:
    """`wait` of a command; the host checks it where it is sent on, and none is none."""
    try:
        return min(600.0, max(0.0, float(parse_qs(query.decode("latin-1")).get("wait", ["0"])[0])))
    except ValueError:
        return 0.0
