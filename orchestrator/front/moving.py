"""Moving: takes a plugin from one host to another without a failed call, and everything away from a drained host.

The new host serves before the old one takes no more runs; those that it has end there. From a host that does not
answer a plugin is moved by force alone: with an epoch, by which the old host ends its own when it comes back.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.responses import Response

from orchestrator.access.principal import Principal
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.front import front_answers
from orchestrator.front.directory import KnownHost, KnownPlugin
from orchestrator.front.epochs import next_number
from orchestrator.front.host_link import HostUnreachableError
from orchestrator.front.hosts import Hosts
from orchestrator.front.placement_facts import live_instances
from orchestrator.front.placing import Placing, passed_on, plugin_path

_START_SECONDS: Final = 600.0
"""For the new host to serve: it may have to build the plugin's image first."""
_DRAIN_SECONDS: Final = 3700.0
"""For the old host's runs to end, which the manifest's `update.drain` bounds there."""
_MOVES_AT_ONCE: Final = 4
_LOOK_INTERVAL: Final = 0.2


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/plugins/{name}/move. `source`: not needed where it serves on one host alone."""

    to: str
    source: str | None = msgspec.field(default=None, name="from")
    force: bool = False


@dataclass(frozen=True, slots=True)
class _Moved:
    """One plugin of a drained host: where it serves now, or why it stays."""

    plugin: str
    to: str | None
    reason: str | None = None


class Moving:
    """One per front."""

    def __init__(self, hosts: Hosts, placing: Placing) -> None:
        self._hosts = hosts
        self._placing = placing

    async def move(self, plugin: str, body: bytes, caller: Principal) -> Response:
        """POST /v1/plugins/{name}/move: 200 with the plugin once it serves on the new host, and on the old one no more;
        409 where nothing has changed, or is as it was again.
        """
        try:
            wanted = msgspec.json.decode(body, type=Move)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return problem(422, f"The body of a move: {error}.", error_type="InvalidRequest", plugin=plugin)
        for name in filter(None, (wanted.to, wanted.source)):
            if name not in self._hosts.names:
                return front_answers.unknown_host(name)
        await self._hosts.refresh()
        source = self._source(plugin, wanted)
        if isinstance(source, Response):
            return source
        host, known = source
        if host.status.answers:
            if wanted.force:
                sentence = f"{host.name} answers, so that nothing is forced: move {plugin} without `force`."
                return problem(409, sentence, error_type="HostAnswers", plugin=plugin)
            refused = await self._carry(plugin, host.name, known, wanted.to, caller)
        elif wanted.force:
            refused = await self._carry_by_force(plugin, host.name, known, wanted.to, caller)
        else:
            sentence = (
                f"{host.name} does not answer, and {plugin} may well serve there. `orchestrator move {plugin} --to "
                f"{wanted.to} --force` starts it on {wanted.to} all the same; {host.name} ends its own when it is back."
            )
            return problem(409, sentence, error_type="HostSilent", plugin=plugin)
        return refused or await self._placing.detail(plugin)

    async def drain(self, host: str, caller: Principal) -> Response:
        """POST /v1/hosts/{name}/drain: marks it, then moves what serves there to where it fits, and says what stays."""
        refused = await self.mark(host, caller, drained=True)
        if refused is not None:
            return refused
        await self._hosts.refresh()
        room = asyncio.Semaphore(_MOVES_AT_ONCE)
        known = self._hosts.directory.hosts[host]
        serving = sorted(name for name, each in known.plugins.items() if each.alive and caller.sees(name))

        async def away(plugin: str) -> _Moved:
            async with room:
                return await self._away(plugin, host, caller)

        moved = await asyncio.gather(*map(away, serving))
        return front_answers.json_response(
            {
                "host": host,
                "moved": [{"plugin": each.plugin, "to": each.to} for each in moved if each.to is not None],
                "remaining": [{"plugin": each.plugin, "reason": each.reason} for each in moved if each.to is None],
            }
        )

    async def resume(self, host: str, caller: Principal) -> Response:
        """POST /v1/hosts/{name}/resume. What was moved away stays where it is."""
        refused = await self.mark(host, caller, drained=False)
        return refused or front_answers.json_response({"host": host, "moved": [], "remaining": []})

    async def mark(self, host: str, caller: Principal, *, drained: bool) -> Response | None:
        """Have the host itself remember it, for every front. Returns the refusal, if any."""
        action = "drain" if drained else "resume"
        try:
            answer = await self._placing.command(host, f"/v1/host/{action}", caller)
        except HostUnreachableError as error:
            return front_answers.not_sent(str(error), [host])
        if answer.status != 200:
            return passed_on(answer)
        self._hosts.mark(host, drained=drained)
        return None

    # Inside

    def _source(self, plugin: str, wanted: Move) -> tuple[KnownHost, KnownPlugin] | Response:
        """The host that it is to leave."""
        held = self._hosts.directory.holding(plugin)
        if not held:
            return unknown_plugin(plugin)
        # Of a silent host that is named, a start may not have been heard of.
        serving = [
            (host, known)
            for host, known in held
            if known.alive or known.parked or (host.name == wanted.source and not host.status.answers)
        ]
        others = [each for each in serving if each[0].name == (wanted.source or each[0].name)]
        others = [each for each in others if each[0].name != wanted.to]
        if len(others) == 1:
            return others[0]
        if others:
            return front_answers.host_required(plugin, [host.name for host, _ in others])
        where = wanted.source or "any other host"
        sentence = f"{plugin} does not serve on {where}: there is nothing to move. `orchestrator start` starts it."
        return problem(409, sentence, error_type="NothingToMove", plugin=plugin)

    async def _away(self, plugin: str, host: str, caller: Principal) -> _Moved:
        looked = await self._placing.look(plugin, leaving=(host,))
        known = self._hosts.directory.hosts[host].plugins.get(plugin)
        if known is None or not known.alive:
            return _Moved(plugin, None, f"{plugin} has ended by itself.")
        serving = [each.name for each, found in self._hosts.directory.holding(plugin) if found.alive]
        # A new host before one that has it already: the plugin shall have as many hosts as before.
        fresh = [name for name in looked.placement.order if name not in serving]
        again = [name for name in looked.placement.order if name in serving and name != host]
        reasons = [each.sentence for each in looked.placement.verdicts if each.host not in (*fresh, *again)]
        for to in (*fresh, *again):
            refused = await self._carry(plugin, host, known, to, caller, checked=True)
            if refused is None:
                return _Moved(plugin, to)
            reasons.append(f"{to}: {msgspec.json.decode(refused.body).get('error') or 'it did not serve there'}")
        return _Moved(plugin, None, " ".join(reasons) or "No other host has it.")

    async def _carry(
        self, plugin: str, source: str, known: KnownPlugin, to: str, caller: Principal, *, checked: bool = False
    ) -> Response | None:
        """Up there, then down here. Returns why it was not done, with everything as before."""
        if not checked and (refused := await self._refused(plugin, source, to)) is not None:
            return refused
        if (refused := await self._bring_up(plugin, source, known, to, caller)) is not None:
            return refused
        leaving = (source, plugin)
        self._hosts.leaving.add(leaving)
        try:
            target = f"{plugin_path(plugin)}/hand-over"
            answer = await self._placing.command(source, target, caller, body={"to": to}, within=_DRAIN_SECONDS)
        except HostUnreachableError as error:
            sentence = f"{plugin} serves on {to}. {error} Whether it has ended on {source} is not known."
            return front_answers.broken_off(sentence, source, plugin)
        finally:
            self._hosts.leaving.discard(leaving)
        return None if answer.status == 200 else passed_on(answer)

    async def _carry_by_force(
        self, plugin: str, source: str, known: KnownPlugin, to: str, caller: Principal
    ) -> Response | None:
        looked = await self._placing.look(plugin, leaving=(source,))
        if (refused := self._refusal(looked.placement.order, looked.placement.verdicts, plugin, to)) is not None:
            return refused
        # On file there first: whatever becomes of the start, the old host's instances are not to live beside it.
        epoch = {"number": next_number(looked.highest_epoch, time.time()), "to": to, "ends": [source]}
        target = f"{plugin_path(plugin)}/take-over"
        try:
            answer = await self._placing.command(to, target, caller, body={"epoch": epoch})
        except HostUnreachableError as error:
            return front_answers.not_sent(str(error), [to], plugin)
        if answer.status != 200:
            return passed_on(answer)
        return await self._bring_up(plugin, source, known, to, caller)

    async def _refused(self, plugin: str, source: str, to: str) -> Response | None:
        looked = await self._placing.look(plugin, leaving=(source,))
        return self._refusal(looked.placement.order, looked.placement.verdicts, plugin, to)

    @staticmethod
    def _refusal(order: Sequence[str], verdicts: Sequence[Any], plugin: str, to: str) -> Response | None:
        if to in order:
            return None
        why = next((each.sentence for each in verdicts if each.host == to), f"{to} does not have it.")
        return problem(409, f"{plugin} was not moved. {why}", error_type="NoSuitableHost", plugin=plugin)

    async def _bring_up(
        self, plugin: str, source: str, known: KnownPlugin, to: str, caller: Principal
    ) -> Response | None:
        """It serves there, with its own instances and as many more as it had here. Returns why not, with nothing of it
        left there that was not there before: what the new host could not start is no fault of the plugin.
        """
        before = live_instances(self._hosts.directory.hosts[to], plugin)
        more = max(1, int(known.report["replicas"]["wanted"]))
        refused = await self._placing.start_on(
            to, plugin, caller, wait=_START_SECONDS, replicas=before + more if before or more > 1 else None
        )
        if refused is None and await self._serves(to, plugin, before + 1):
            return None
        if refused is None:
            report = self._hosts.directory.hosts[to].plugins[plugin].report
            why = report["reason"] or f"It is {report['state']}."
            sentence = f"{plugin} was not moved: it does not serve on {to}. {why}"
            refused = problem(409, sentence, error_type="MoveFailed", plugin=plugin, reason_code=report["reason_code"])
        try:
            if before:
                body = {"replicas": before}
                await self._placing.command(to, f"{plugin_path(plugin)}/scale", caller, body=body)
            else:
                await self._placing.command(to, f"{plugin_path(plugin)}/hand-over", caller, body={"to": source})
        except HostUnreachableError:
            pass  # what is said of the start says that
        return refused

    async def _serves(self, host: str, plugin: str, ready: int) -> bool:
        """Whether so many instances are ready there; waits while they start."""
        end = self._hosts.clock() + _START_SECONDS
        while self._hosts.clock() < end:
            await self._hosts.relist(host)
            status = self._hosts.directory.hosts[host].status
            known = self._hosts.directory.hosts[host].plugins.get(plugin)
            if known is None or not known.alive or not status.answers:
                return False
            if known.ready >= ready:
                return True
            await asyncio.sleep(_LOOK_INTERVAL)
        return False
