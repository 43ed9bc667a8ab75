"""The methods of MCP that the orchestrator answers, over a backend. Loaded at the first request."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.subscriptions import ListenHandler, SubscriptionBus, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ServerEvent
from mcp_types.methods import serialize_server_result
from plugin_runtime import __version__
from pydantic import ValidationError

from orchestrator.formatting import format_size
from orchestrator.mcp import results
from orchestrator.mcp.backend import MAX_CONTENT, Backend, BackendError, Exchange, ListedTool
from orchestrator.mcp.names import parts
from orchestrator.mcp.progress import RunReport
from orchestrator.mcp.schemas import listed
from orchestrator.mcp.tool_list import ToolListWatch
from orchestrator.mcp.uploads import UploadError, decoded

T = TypeVar("T")
Context = ServerRequestContext[Any, Any]

EXCHANGE: Final = "orchestrator.mcp.exchange"
"""Where a request's scope has its `Exchange`."""
_MAX_BUFFERED: Final = 16  # changes of the list that a slow client has not learned of
_INSTRUCTIONS: Final = (
    "Each tool is `plugin.tool` of a machine-learning plugin that runs in a container of its own. Files go in as "
    "base64 strings. Pictures and sounds of a result come as content, other files as links that resources/read reads. "
    "A failed call says why, with a reason code and the run's id; a plugin that is FAILED has to be restarted by an "
    "operator."
)
_RESOURCE_NOT_FOUND: Final = -32002


class ToolServer(Server[Any]):
    """The server of one backend, for any number of clients. `max_watchers`: of changes of the list, at a time."""

    def __init__(self, backend: Backend, *, base_url: str = "", max_watchers: int) -> None:
        """`base_url`: where the HTTP API is, for links in answers to requests that did not come over HTTP."""
        self._backend = backend
        self._base_url = base_url
        self._max_watchers = max_watchers
        self._watch = ToolListWatch(backend)
        self._listening: set[ListenHandler] = set()
        self._sessions: set[asyncio.Task[None]] = set()
        self._shown: dict[tuple[int, str], tuple[ListedTool, dict[str, Any] | None]] = {}
        super().__init__(
            "plugin-orchestrator",
            version=__version__,
            title="Plugin orchestrator",
            instructions=_INSTRUCTIONS,
            get_tool_input_schema=lambda _: None,  # none of our schemas names headers
            on_subscriptions_listen=self._listen,
        )
        # Not by the constructor, which takes the package's own models of results alone.
        self.add_request_handler("tools/list", types.PaginatedRequestParams, self._list_tools)
        self.add_request_handler("tools/call", types.CallToolRequestParams, self._call_tool)
        self.add_request_handler("resources/list", types.PaginatedRequestParams, self._list_resources)
        self.add_request_handler("resources/templates/list", types.PaginatedRequestParams, self._list_templates)
        self.add_request_handler("resources/read", types.ReadResourceRequestParams, self._read_resource)
        self.middleware.clear()  # its traces: ours follow runs
        self.add_notification_handler("notifications/initialized", types.NotificationParams, self._session_begins)

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        # Sessions over HTTP are begun without options, and so without this one.
        options = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)

    def close_streams(self) -> None:
        """End the streams that have no end of their own."""
        for handler in self._listening:
            handler.close()
        for session in self._sessions:
            session.cancel()
        self._watch.close()

    # Tools

    async def _list_tools(self, ctx: Context, params: types.PaginatedRequestParams) -> dict[str, Any]:
        if params.cursor is not None:
            raise MCPError(types.INVALID_PARAMS, "There is no such page: tools/list answers with all tools at once.")
        tools = await _answered(self._backend.tools(self._exchange(ctx).caller))
        shown = {(id(tool.about), ctx.protocol_version): tool for tool in tools}
        known = {key: self._shown.get(key) or (tool, _fitting(tool, key[1])) for key, tool in shown.items()}
        others = {key: value for key, value in self._shown.items() if key[1] != ctx.protocol_version}
        self._shown = {**others, **known}
        return _fresh(tools=[found for _, found in known.values() if found is not None])

    async def _call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> dict[str, Any]:
        exchange = self._exchange(ctx)
        plugin, tool = parts(params.name)
        if not (plugin and tool):
            raise MCPError(types.INVALID_PARAMS, results.unknown_tool(params.name))
        about = await _answered(self._backend.tool(exchange.caller, plugin, tool))
        try:
            arguments = decoded(params.arguments or {}, about or {})
        except UploadError as error:
            return results.failure({"error": str(error), "error_type": "InvalidArguments"})
        wanted = (ctx.meta or {}).get("progress_token") is not None
        async with RunReport(ctx.session.report_progress, self._backend.standing, wanted=wanted) as report:
            run = self._backend.run(exchange, plugin, tool, arguments, report)
            envelope = await _answered(_unless_closed(run, exchange.closed))
        if results.is_unknown(envelope):
            raise MCPError(types.INVALID_PARAMS, results.unknown_tool(params.name))
        if not envelope["ok"]:
            return results.failure(envelope)
        if report.too_large:
            return results.too_large(envelope)
        if envelope.get("result") is None and report.items:
            envelope["result"] = report.items
        if about is None:  # its plugin has only now said which tools it has
            about = await _answered(self._backend.tool(exchange.caller, plugin, tool))
        return await self._success(exchange, about or {}, envelope)

    async def _success(
        self, exchange: Exchange, about: Mapping[str, Any], envelope: Mapping[str, Any]
    ) -> dict[str, Any]:
        contents = {}
        for file in envelope.get("files") or ():
            if results.is_inline(file):
                stored = await _answered(self._backend.file(exchange.caller, envelope["run_id"], file["file"]))
                if stored is not None:
                    contents[file["file"]] = stored
        return results.success(envelope, about, contents, exchange.base_url)

    # Files of results

    async def _list_resources(self, _: Context, __: types.PaginatedRequestParams) -> dict[str, Any]:
        return _fresh(resources=[])  # those of runs are linked from their results

    async def _list_templates(self, ctx: Context, _: types.PaginatedRequestParams) -> dict[str, Any]:
        template = {
            "uriTemplate": f"{self._exchange(ctx).base_url}/v1/runs/{{run_id}}/files/{{name}}",
            "name": "file of a run",
            "description": "A file that a tool gave; the tool's answer has its link.",
        }
        return _fresh(resourceTemplates=[template])

    async def _read_resource(self, ctx: Context, params: types.ReadResourceRequestParams) -> dict[str, Any]:
        uri, named = str(params.uri), results.file_named(str(params.uri))
        found = None
        if named is not None:
            found = await _answered(self._backend.file(self._exchange(ctx).caller, *named))
        if found is None:
            sentence = "There is no such file, or it is not stored any more. The answer of the tool has its link."
            code = types.INVALID_PARAMS if ctx.protocol_version >= "2026" else _RESOURCE_NOT_FOUND
            raise MCPError(code, sentence, {"uri": uri})
        if (content := results.resource(uri, found)) is None:
            sentence = (
                f"The file has {format_size(found.size)}, and resources/read gives at most {format_size(MAX_CONTENT)}. "
                f"GET {uri} has it."
            )
            raise MCPError(types.INVALID_PARAMS, sentence, {"uri": uri})
        return _fresh(contents=[content])

    # Changes of the list

    async def _listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """The stream of a client of the current protocol."""
        if len(self._listening) >= self._max_watchers:
            raise MCPError(types.INTERNAL_ERROR, _too_many(self._max_watchers))
        bus = _Bus()
        handler = ListenHandler(bus, max_subscriptions=1, max_buffered_events=_MAX_BUFFERED)
        self._listening.add(handler)
        end = await self._watch.watch(self._exchange(ctx).caller, bus.tools_changed)
        try:
            return await handler(ctx, params)
        finally:
            end()
            self._listening.discard(handler)

    async def _session_begins(self, ctx: Context, _: types.NotificationParams) -> None:
        """A client of an older protocol has opened a session: it is notified until the session's end."""
        changed = asyncio.Event()

        async def tell() -> None:
            end = await self._watch.watch(self._exchange(ctx).caller, changed.set)
            try:
                while True:
                    await changed.wait()
                    changed.clear()
                    await ctx.session.send_tool_list_changed()
            finally:
                end()

        task = asyncio.create_task(tell(), name="changes for an MCP session")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)
        # mcp 2.3.0 tells a handler in no other way of its session's end.
        ctx.session._connection.exit_stack.callback(task.cancel)  # noqa: SLF001

    def _exchange(self, ctx: Context) -> Exchange:
        found = None if ctx.request is None else ctx.request.scope.get(EXCHANGE)
        return found if isinstance(found, Exchange) else Exchange(base_url=self._base_url)


def _fresh(**members: Any) -> dict[str, Any]:
    """A result that clients of the current protocol are not to keep: it may change, and depends on the key."""
    return {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **members}


class _Bus(SubscriptionBus):
    """Events for one stream."""

    def __init__(self) -> None:
        self._listener: Callable[[ServerEvent], None] = lambda _: None

    async def publish(self, event: ServerEvent) -> None:
        self._listener(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        self._listener = listener
        return lambda: None

    def tools_changed(self) -> None:
        self._listener(ToolsListChanged())


def _fitting(tool: ListedTool, version: str) -> dict[str, Any] | None:
    """The tool as this version of the protocol has it; None for one that would spoil the whole list."""
    shown = listed(tool)
    try:
        serialize_server_result("tools/list", version, _fresh(tools=[shown]))
    except ValidationError:
        return None
    return shown


async def _answered(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; a `BackendError` as what the client gets in its place."""
    try:
        return await work
    except BackendError as error:
        raise MCPError(types.INTERNAL_ERROR, str(error)) from error


async def _unless_closed(work: Coroutine[Any, Any, T], closed: asyncio.Event) -> T:
    """The result of `work`, which is cancelled once `closed` is set."""
    # In a task of its own: the server's cancellation would reach into its cleaning up.
    working = asyncio.create_task(work)
    closing = asyncio.create_task(closed.wait())
    try:
        await asyncio.wait((working, closing), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise MCPError(types.INVALID_REQUEST, "The connection was closed before the run's end.")
    finally:
        closing.cancel()
        working.cancel()


def _too_many(most: int) -> str:
    return f"The maximum of {most} clients follow the list of tools. Close one, or raise ORCHESTRATOR_MCP_SESSIONS."
