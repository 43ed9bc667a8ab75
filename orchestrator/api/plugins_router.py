"""A plugin's tools, operator commands and logs."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse

from orchestrator.api.context import ApiContext, Context
from orchestrator.api.problems import problem, respond, unknown_plugin
from orchestrator.api.sse import UntilShutdownResponse
from orchestrator.errors import EngineError
from orchestrator.health.health_model import PluginDetailResponse, PostMortemReport, detail_response, post_mortem_report
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.tools import refusals

router = APIRouter(prefix="/v1/plugins/{name}", tags=["plugins"], responses={404: {"description": "No such plugin"}})

Wait = Annotated[
    float, Query(ge=0, le=600, description="Seconds to wait until the new instance is ready or has failed.")
]
Tail = Annotated[int, Query(ge=1, le=10_000, description="Number of lines, counted from the end.")]


@router.get("/tools")
async def tools(name: str, context: Context) -> Any:
    """The tools with their JSON Schemas, as the plugin reported them; empty until it was ready once."""
    record = context.registry.get(name)
    return unknown_plugin(name) if record is None else [dict(tool) for tool in record.tools]


@router.post("/restart", response_model=PluginDetailResponse)
async def restart(name: str, context: Context, wait: Wait = 0) -> PluginDetailResponse | Response:
    """Replace the instance by a new one, from the current manifest."""
    if context.shutdown.requested.is_set():
        return respond(refusals.stopping(), plugin=name)
    supervisor = await context.fleet.discover(name)
    if supervisor is None:
        return unknown_plugin(name)
    await supervisor.restart()
    return await _after(supervisor, context, wait)


@router.post("/start", response_model=PluginDetailResponse)
async def start(name: str, context: Context, wait: Wait = 0) -> PluginDetailResponse | Response:
    """Start an instance unless one is alive. Also registers a plugin whose folder is new."""
    if context.shutdown.requested.is_set():
        return respond(refusals.stopping(), plugin=name)
    supervisor = await context.fleet.discover(name)
    if supervisor is None:
        return unknown_plugin(name)
    await supervisor.start()
    return await _after(supervisor, context, wait)


@router.post("/stop", response_model=PluginDetailResponse)
async def stop(name: str, context: Context) -> PluginDetailResponse | Response:
    """Stop the instance. Answers once its container is removed."""
    supervisor = context.fleet.get(name)
    if supervisor is None:
        return unknown_plugin(name)
    await supervisor.stop()
    return await _after(supervisor, context, 0)


@router.get("/post-mortem", response_model=PostMortemReport)
async def post_mortem(
    name: str, context: Context, generation: Annotated[int | None, Query(ge=0)] = None
) -> PostMortemReport | Response:
    """The post-mortem of the instance of this generation, or of the last one that ended. Survives restarts."""
    if context.registry.get(name) is None:
        return unknown_plugin(name)
    report = await context.history.post_mortem_of(name, generation)
    if report is None:
        which = "any instance" if generation is None else f"generation {generation}"
        sentence = f"No post-mortem of {which} of {name} in the history."
        return problem(404, sentence, error_type="NoPostMortem", plugin=name)
    return post_mortem_report(report)


@router.get("/logs", response_class=PlainTextResponse)
async def logs(name: str, context: Context, *, tail: Tail = 100, follow: bool = False) -> Response:
    """The container's output, each line with its time; the last lines only if the instance has ended."""
    supervisor, record = context.fleet.get(name), context.registry.get(name)
    if supervisor is None or record is None:
        return unknown_plugin(name)
    # Its container is being removed, or was never made.
    if record.post_mortem is not None:
        lines = (record.post_mortem.log_tail or record.post_mortem.build_output).splitlines(keepends=True)
        return PlainTextResponse("".join(lines[-tail:]))
    try:
        if follow:
            return UntilShutdownResponse(supervisor.follow_logs(tail=tail), context.shutdown.requested)
        return PlainTextResponse(await supervisor.logs(tail=tail))
    except EngineError as error:
        return problem(503, f"The logs are unavailable: {error}.", error_type="LogsUnavailable", plugin=name)


async def _after(supervisor: PluginSupervisor, context: ApiContext, wait: float) -> PluginDetailResponse | Response:
    await _ready_or_stopping(supervisor, context, wait)
    record = context.registry.get(supervisor.name)
    return unknown_plugin(supervisor.name) if record is None else detail_response(record, time.monotonic())


async def _ready_or_stopping(supervisor: PluginSupervisor, context: ApiContext, wait: float) -> None:
    if not wait:
        return
    ready = asyncio.create_task(supervisor.wait_ready(wait))
    stopping = asyncio.create_task(context.shutdown.requested.wait())
    try:
        await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (ready, stopping):
            task.cancel()
    if ready.done():
        ready.result()
