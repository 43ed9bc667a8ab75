"""LocalBackend: tools of the orchestrator in this process, as far as their caller sees them and may run them."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

import httpx
import msgspec

from orchestrator.access.principal import Principal, Right
from orchestrator.api.body import body_limit, too_large
from orchestrator.api.concealment import concealment, records_seen
from orchestrator.api.context import ApiContext
from orchestrator.api.problems import envelope
from orchestrator.client import InvalidRequest
from orchestrator.client.arguments import body_options, prepared
from orchestrator.mcp.backend import MAX_CONTENT, Exchange, ListedTool, RunListener, StoredContent
from orchestrator.mcp.names import fits, tool_name
from orchestrator.registry import LifecycleEvent, PluginRecord
from orchestrator.sandbox.call import BodyError, Outcome, RunResult, ToolCall
from orchestrator.tools import refusals
from orchestrator.tools.result_store import StoredFile

_RUNS: Final[set[asyncio.Task[RunResult]]] = set()  # the loop itself has weak references alone


class _Line(msgspec.Struct):
    """A line of a streaming tool."""

    event: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    fraction: float | None = None
    message: str = ""


_LINE: Final = msgspec.json.Decoder(_Line)


class LocalBackend:
    """A `Backend`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def tools(self, caller: Principal) -> list[ListedTool]:
        return [
            ListedTool(record.name, about)
            for record in records_seen(caller, self._context.registry)
            if self._takes_runs(record)
            for about in record.tools
            if fits(tool_name(record.name, about["name"]))
        ]

    async def tool(self, caller: Principal, plugin: str, tool: str) -> Mapping[str, Any] | None:
        record = self._context.registry.get(plugin)
        if record is None or not caller.sees(plugin):
            return None
        return next((about for about in record.tools if about["name"] == tool), None)

    async def run(
        self, exchange: Exchange, plugin: str, tool: str, arguments: Mapping[str, Any], listener: RunListener
    ) -> dict[str, Any]:
        run_id = secrets.token_hex(16)
        if (refusal := self._refusal(exchange.caller, plugin, tool)) is not None:
            return _envelope(refusal, plugin, tool, None)
        try:
            content_type, body = _body(arguments, self._context.registry.get(plugin))
        except (BodyError, InvalidRequest) as error:
            outcome = error.outcome if isinstance(error, BodyError) else Outcome.BAD_REQUEST
            return _envelope(RunResult(outcome, error=str(error)), plugin, tool, None)
        call = ToolCall(
            tool,
            run_id,
            content_type,
            body,
            trace=exchange.trace,
            caller=exchange.caller.name,
            share=exchange.caller.grant.share,
        )

        def emit(lines: Sequence[bytes]) -> None:
            for event in map(_LINE.decode, lines):
                if event.event == "item":
                    listener.item(msgspec.json.decode(event.data), len(event.data))
                elif event.event == "progress":
                    listener.progress(event.fraction, event.message)

        listener.begun(run_id)
        # A task of its own: a run that is abandoned goes on until its tool has noticed.
        run = asyncio.create_task(self._context.tool_runner.run(plugin, call, emit=emit), name=f"run {run_id}")
        _RUNS.add(run)
        run.add_done_callback(_RUNS.discard)
        try:
            result = await asyncio.shield(run)
        except asyncio.CancelledError:
            self._context.tool_runner.caller_disconnected(run_id)
            raise
        return _envelope(concealment(exchange.caller, self._context).result(result), plugin, tool, run_id)

    async def standing(self, run_id: str) -> str:
        view = await self._context.tool_runner.lookup.one(run_id)
        if view is None:
            return "about to start"
        if view.queue_position is not None:
            return f"waiting in the queue of {view.record.plugin}, at {view.queue_position}"
        record = self._context.registry.get(view.record.plugin)
        if view.record.started_at is None:
            activity = record.activity.what if record is not None and record.activity is not None else "starting"
            return f"waiting for {view.record.plugin}: {activity}"
        return "running"

    async def file(self, caller: Principal, run_id: str, name: str) -> StoredContent | None:
        runner = self._context.tool_runner
        if await runner.lookup.one(run_id, caller) is None:
            return None
        stored = await runner.results.find_file(run_id, name)
        return None if stored is None else await asyncio.to_thread(_content, stored)

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def notified(_: LifecycleEvent) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed)  # events come from any thread

        return self._context.registry.subscribe(notified)

    def _takes_runs(self, record: PluginRecord) -> bool:
        """As the ToolRunner sees it: also a plugin that a run would bring back, or that is being restarted."""
        supervisor = self._context.fleet.get(record.name)
        return supervisor is not None and (not record.ended or supervisor.parked or supervisor.restarting)

    def _refusal(self, caller: Principal, plugin: str, tool: str) -> RunResult | None:
        record = self._context.registry.get(plugin)
        if record is None or not caller.sees(plugin):
            return refusals.unknown_plugin(plugin)
        if record.tools and all(known["name"] != tool for known in record.tools):
            return refusals.unknown_tool(plugin, tool, [known["name"] for known in record.tools])
        if not caller.may(Right.RUN, plugin):
            sentence = (
                f"The API key {caller.name!r} may list tools and not run them. Ask an operator for a key that may run."
            )
            return RunResult(Outcome.BAD_REQUEST, error=sentence, error_type="RoleTooSmall")
        return None


def _body(arguments: Mapping[str, Any], record: PluginRecord | None) -> tuple[str, bytes]:
    """The content type and the body of a request with these arguments. Raises `InvalidRequest`, `BodyError`."""
    with ExitStack() as files:
        options = body_options(prepared(arguments), files)
        request = httpx.Request("POST", "http://plugin", **options)
        body = request.read()
    if record is not None and len(body) > (limit := body_limit(record)):
        raise too_large(limit)
    return request.headers["content-type"], body


def _content(stored: StoredFile) -> StoredContent:
    with stored.file as file:
        content = file.read() if stored.about.size <= MAX_CONTENT else None
    return StoredContent(stored.about.media_type, stored.about.size, content)


def _envelope(result: RunResult, plugin: str, tool: str, run_id: str | None) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode(envelope(result, plugin=plugin, tool=tool, run_id=run_id))
    return made if result.retry_after is None else {**made, "retry_after_seconds": result.retry_after}
