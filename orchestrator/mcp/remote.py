"""RemoteBackend: tools of an orchestrator elsewhere, by its HTTP API, which also decides what its caller may do."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

from orchestrator.access.principal import Principal
from orchestrator.client import (
    AccessDenied,
    ApiError,
    AsyncClient,
    Begun,
    End,
    Item,
    NotFound,
    Plugin,
    Progress,
    UnexpectedAnswer,
    Unreachable,
)
from orchestrator.mcp.backend import MAX_CONTENT, BackendError, Exchange, ListedTool, RunListener, StoredContent
from orchestrator.mcp.names import fits, tool_name

_FINAL: Final = ("FAILED", "UNAVAILABLE")
_RECONNECT: Final = 2.0
"""Seconds between attempts to follow an orchestrator that does not answer."""


class RemoteBackend:
    """A `Backend`. What it answers does not depend on the caller: the client has one key."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        # Of each plugin: the generation that they are of, and its tools.
        self._tools: dict[str, tuple[int, list[ListedTool]]] = {}

    async def tools(self, caller: Principal) -> list[ListedTool]:  # noqa: ARG002
        try:
            plugins = [plugin for plugin in await self._client.plugins() if _takes_runs(plugin)]
            listed = await asyncio.gather(*(self._tools_of(plugin) for plugin in plugins))
        except ApiError as error:
            raise self._without_answer(error) from error
        return [tool for tools in listed for tool in tools]

    async def tool(self, caller: Principal, plugin: str, tool: str) -> Mapping[str, Any] | None:
        if plugin not in self._tools:
            await self.tools(caller)
        _, tools = self._tools.get(plugin, (0, ()))
        return next((each.about for each in tools if each.about["name"] == tool), None)

    async def run(
        self,
        exchange: Exchange,  # noqa: ARG002
        plugin: str,
        tool: str,
        arguments: Mapping[str, Any],
        listener: RunListener,
    ) -> dict[str, Any]:
        try:
            # Left early, it is closed: the orchestrator sees a caller who disconnects.
            async with aclosing(self._client.stream(plugin, tool, **arguments)) as events:
                async for event in events:
                    match event:
                        case Begun(run_id) if run_id:
                            listener.begun(run_id)
                        case Item(data):
                            listener.item(data, len(json.dumps(data)))
                        case Progress(fraction, message):
                            listener.progress(fraction, message)
                        case End(envelope):
                            return dict(envelope)
        except (Unreachable, UnexpectedAnswer) as error:
            raise self._without_answer(error) from error
        except ApiError as error:
            return _refused(error)
        raise BackendError("The run's stream ended before its result came.")

    async def standing(self, run_id: str) -> str:
        try:
            run = await self._client.handle(run_id).status()
        except ApiError as error:
            raise self._without_answer(error) from error
        if run["queue_position"] is not None:
            return f"waiting in the queue of {run['plugin']}, at {run['queue_position']}"
        return "running" if run["started_at"] else f"waiting for {run['plugin']}"

    async def file(self, caller: Principal, run_id: str, name: str) -> StoredContent | None:  # noqa: ARG002
        try:
            envelope = await self._client.handle(run_id).envelope(timeout=0)
            # The client lists them as objects that can be read.
            file: Any = next((file for file in envelope["files"] if file["file"] == name), None)
            if file is None:
                return None
            content = await file.read() if file["size"] <= MAX_CONTENT else None
        except NotFound:
            return None
        except ApiError as error:
            raise self._without_answer(error) from error
        return StoredContent(file["media_type"], file["size"], content)

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], None]:
        following = asyncio.create_task(self._follow(changed), name="events for MCP")

        def end() -> None:
            following.cancel()

        return end

    async def _follow(self, changed: Callable[[], object]) -> None:
        while True:
            with suppress(ApiError):
                async with aclosing(self._client.watch()) as plugins:
                    async for _ in plugins:
                        changed()
            await asyncio.sleep(_RECONNECT)

    async def _tools_of(self, plugin: Plugin) -> list[ListedTool]:
        name, generation = plugin["name"], plugin["generation"]
        known = self._tools.get(name)
        if known is not None and known[0] == generation and known[1]:
            return known[1]
        try:
            found = await self._client.tools(name)
        except NotFound:  # removed meanwhile
            return []
        tools = [ListedTool(name, about) for about in found if fits(tool_name(name, about["name"]))]
        self._tools[name] = (generation, tools)
        return tools

    def _without_answer(self, error: ApiError) -> BackendError:
        where = f"the orchestrator at {self._client.address}"
        match error:
            case AccessDenied():
                return BackendError(f"{error} ({where}; the bridge reads the key from ORCHESTRATOR_API_KEY)")
            case Unreachable():
                return BackendError(
                    f"{error} ({where}). Start it with `orchestrator serve`, or set ORCHESTRATOR_URL for this bridge."
                )
            case _:
                return BackendError(f"{error} ({where})")


def _takes_runs(plugin: Plugin) -> bool:
    restart = plugin.get("restart")  # an older orchestrator sends none
    restarting = restart is not None and restart["state"] == "preparing"
    return plugin["state"] not in _FINAL or plugin["reason_code"] == "PARKED" or restarting


def _refused(error: ApiError) -> dict[str, Any]:
    envelope: dict[str, Any] = {"ok": False, "result": None, "files": [], **error.envelope}
    envelope["error"] = str(error)
    return envelope if error.retry_after is None else {**envelope, "retry_after_seconds": error.retry_after}
