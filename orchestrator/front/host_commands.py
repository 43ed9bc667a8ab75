"""Operators' commands about hosts: add, drain, resume, forget; and the move of a plugin."""

import re
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.api.body import UploadPace
from orchestrator.api.problems import hosts_need_every_plugin, problem, respond
from orchestrator.front import front_answers
from orchestrator.front.forwarding import Incoming
from orchestrator.front.host_state import HostState
from orchestrator.front.hosts import Hosts
from orchestrator.front.moving import Moving
from orchestrator.sandbox.call import BodyError, RunResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class HostCommands:
    """`pace`: the slowest that a body may arrive."""

    def __init__(self, hosts: Hosts, moving: Moving, pace: UploadPace) -> None:
        self._hosts = hosts
        self._moving = moving
        self._pace = pace

    async def answer(self, found: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """`found`: with the groups `plugin`, of a move, or `host` and `action`."""
        incoming = Incoming(scope, receive)
        try:
            await incoming.open(self._pace)
        except BodyError as error:
            response = respond(RunResult(error.outcome, error=str(error)))
        else:
            if (plugin := found["plugin"]) is not None:
                response = await self._moving.move(plugin, incoming.body or b"", incoming.principal)
            else:
                response = await self._host(found["host"], found["action"], incoming)
        await response(scope, receive, send)

    async def _host(self, host: str | None, action: str | None, incoming: Incoming) -> Response:
        if not incoming.principal.sees_every_plugin:
            return hosts_need_every_plugin()
        if host is None:
            return self._add()
        if host not in self._hosts.names:
            return front_answers.unknown_host(host)
        commands: dict[str | None, Callable[[], Awaitable[Response]]] = {
            "drain": lambda: self._moving.drain(host, incoming.principal),
            "resume": lambda: self._moving.resume(host, incoming.principal),
            "forget": lambda: self._forget(host),
        }
        command = commands.get(action)
        if command is None:
            return problem(404, "No such route. /docs lists all routes.", error_type="UnknownRoute")
        return await command()

    def _add(self) -> Response:
        sentence = (
            "The hosts of this front are those of its hosts.yaml. Add the new one there (`orchestrator hosts add` "
            "prints the lines): the front reads the file again within seconds."
        )
        return problem(409, sentence, error_type="HostsInFile")

    async def _forget(self, host: str) -> Response:
        """Only what does not answer is forgotten: one that does would go on unseen."""
        status = self._hosts.directory.hosts[host].status
        if status.answers:
            sentence = (
                f"{host} answers, and is not forgotten. Drain it, then take it out of hosts.yaml: the front reads the "
                "file again within seconds."
            )
            return problem(409, sentence, error_type="HostAnswers")
        if len(self._hosts.names) == 1:
            sentence = f"{host} is this front's last host, and is not forgotten. Add another one to hosts.yaml first."
            return problem(409, sentence, error_type="LastHost")
        await self._hosts.forget(host)
        return front_answers.json_response(
            {
                "host": host,
                "state": HostState.FORGOTTEN,
                "notice": f"Take {host} out of hosts.yaml too: a front that is started anew has it again otherwise. "
                f"What {host} still runs is not ended.",
            }
        )
