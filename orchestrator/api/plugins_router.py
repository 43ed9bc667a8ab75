"""A plugin's tools, operator commands and logs."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.command_body import CommandRoute
from orchestrator.api.concealment import concealment
from orchestrator.api.context import ApiContext, Context, Who
from orchestrator.api.problems import problem, respond, unknown_plugin
from orchestrator.api.sse import STREAM_HEADERS, UntilShutdownResponse, beating
from orchestrator.errors import EngineError
from orchestrator.health.health_model import PluginDetailResponse, PostMortemReport, detail_response, post_mortem_report
from orchestrator.loader.manifest import MAX_REPLICAS
from orchestrator.registry import PluginRecord, PostMortem
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.tools import refusals

T = TypeVar("T")

router = APIRouter(
    prefix="/v1/plugins/{name}",
    tags=["plugins"],
    route_class=CommandRoute,
    responses={404: {"description": "No such plugin"}},
)

Wait = Annotated[
    float, Query(ge=0, le=600, description="Seconds to wait until the new instance is ready or has failed.")
]
Only = Annotated[
    Literal["failed"] | None, Query(description="`failed`: start new instances in place of those that ended alone.")
]
Build = Annotated[
    bool, Query(description="The output of the last build of its image instead, without times; not followed.")
]
Tail = Annotated[int, Query(ge=1, le=10_000, description="Number of lines, counted from the end.")]
Generation = Annotated[
    Annotated[int, Field(ge=1)] | Literal["all"] | None,
    Query(description="Of the instance; the newest without it; `all`: of each, with its number in brackets."),
]


class Scale(BaseModel):
    """How many instances a plugin is to have at a time."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(ge=1, le=MAX_REPLICAS, strict=True)


@router.get("/tools")
async def tools(name: str, context: Context) -> Any:
    """The tools with their JSON Schemas, as the plugin reported them; empty until it was ready once."""
    record = context.registry.get(name)
    return unknown_plugin(name) if record is None else [dict(tool) for tool in record.tools]


@router.post(
    "/restart",
    response_model=PluginDetailResponse,
    responses={
        202: {"description": "An image is built; the instance serves until then", "model": PluginDetailResponse},
        409: {"description": "Refused: there can be no new instance. The old one serves on"},
    },
)
async def restart(
    name: str, context: Context, who: Who, response: Response, *, wait: Wait = 0, only: Only = None
) -> PluginDetailResponse | Response:
    """Replace the instances by new ones, from the current manifest.

    Those that serve are stopped only when all that can fail before is done: manifest, models, secrets, GPU, image. With
    `only=failed` those that serve stay, and new ones are started from what they were made from in place of those that
    ended.
    """
    if context.shutdown.requested.is_set():
        return respond(refusals.stopping(), plugin=name)
    supervisor = await context.fleet.discover(name)
    if supervisor is None:
        return unknown_plugin(name, searched=True)
    if only is not None:
        await supervisor.start(caller=who.name)
        return await after(supervisor, context, wait)
    end = time.monotonic() + wait
    try:
        refusal = await _unless_stopping(context, supervisor.restart(wait, who.name))
    except TimeoutError:
        response.status_code = 202
        return await after(supervisor, context, 0)
    if refusal is not None:
        return problem(409, refusal.reason, error_type="RestartRefused", plugin=name, reason_code=refusal.code)
    return await after(supervisor, context, max(0.0, end - time.monotonic()))


@router.post("/start", response_model=PluginDetailResponse)
async def start(name: str, context: Context, who: Who, wait: Wait = 0) -> PluginDetailResponse | Response:
    """Start the instances that are missing: one, or as many as wanted. Also registers a plugin whose folder is new."""
    if context.shutdown.requested.is_set():
        return respond(refusals.stopping(), plugin=name)
    supervisor = await context.fleet.discover(name)
    if supervisor is None:
        return unknown_plugin(name, searched=True)
    await supervisor.start(caller=who.name)
    return await after(supervisor, context, wait)


@router.post("/scale", response_model=PluginDetailResponse)
async def scale(name: str, scale: Scale, context: Context, who: Who, wait: Wait = 0) -> PluginDetailResponse | Response:
    """Set the number of instances at a time, in place of the manifest's `replicas`. It outlives restarts.

    More are started from what the others were made from. Of too many, the least busy get no new runs and end when those
    under way have ended, within the manifest's `update.drain`. A plugin without an instance stays so until its start.
    """
    if context.shutdown.requested.is_set():
        return respond(refusals.stopping(), plugin=name)
    supervisor = context.fleet.get(name)
    if supervisor is None:
        return unknown_plugin(name)
    await supervisor.scale(scale.replicas, who.name)
    return await after(supervisor, context, wait)


@router.post(
    "/park",
    response_model=PluginDetailResponse,
    responses={409: {"description": "It cannot be parked now: a run executes or waits, or it is not ready"}},
)
async def park(name: str, context: Context, who: Who) -> PluginDetailResponse | Response:
    """Stop the plugin's instances until it is called again: a run starts new ones and waits for them.

    Answers at once; the containers are stopped in the background.
    """
    supervisor = context.fleet.get(name)
    if supervisor is None:
        return unknown_plugin(name)
    if not await supervisor.park(caller=who.name):
        record = context.registry.get(name)
        why = "A run executes or waits for it, or an instance is on its way; try again later, or stop it."
        if record is not None and (record.ended or not record.ready):
            why = f"It is {record.reason_code or record.state}; only a plugin that takes runs can be parked."
        return problem(409, f"{name} was not parked. {why}", error_type="NotParked", plugin=name)
    return await after(supervisor, context, 0)


@router.post("/stop", response_model=PluginDetailResponse)
async def stop(name: str, context: Context, who: Who) -> PluginDetailResponse | Response:
    """Stop all instances. Answers once their containers are removed."""
    supervisor = context.fleet.get(name)
    if supervisor is None:
        return unknown_plugin(name)
    await supervisor.stop(caller=who.name)
    return await after(supervisor, context, 0)


@router.get("/post-mortem", response_model=PostMortemReport)
async def post_mortem(
    name: str, context: Context, generation: Annotated[int | None, Query(ge=0)] = None
) -> PostMortemReport | Response:
    """The post-mortem of the instance of this generation, or of the last one that ended. Survives restarts, and the
    plugin's removal.
    """
    report = await context.history.post_mortem_of(name, generation)
    if report is None and context.registry.get(name) is None:
        return unknown_plugin(name)
    if report is None:
        which = "any instance" if generation is None else f"generation {generation}"
        sentence = f"No post-mortem of {which} of {name} in the history."
        return problem(404, sentence, error_type="NoPostMortem", plugin=name)
    return post_mortem_report(report)


@router.get("/logs", response_class=PlainTextResponse)
async def logs(  # noqa: PLR0911 - one per answer
    name: str,
    context: Context,
    who: Who,
    *,
    tail: Tail = 100,
    follow: bool = False,
    build: Build = False,
    generation: Generation = None,
) -> Response:
    """The container's output, each line with its time; the last lines only if the instance has ended. While an image is
    built for it and there is no container yet, the output of that. Of several instances the newest's, or that of
    `generation`, or of `all`: then each line has the number of its instance in brackets, after its time.

    With `follow` it goes on, with that of the next instances too (with `generation` until that one's end), and with an
    empty line after 15 s of silence. A line that begins with `--- ` says which of several instances it is, or that one
    is awaited, has ended, or is the next; no line of a container does.
    """
    supervisor, record = context.fleet.get(name), context.registry.get(name)
    if supervisor is None or record is None:
        return unknown_plugin(name)
    if build:
        return PlainTextResponse(await supervisor.logs.build_output(tail=tail))
    known = generation in (None, "all") or any(each.generation == generation for each in supervisor.instances)
    if follow and known:
        # An empty line as the heartbeat: each line of a log begins with its time.
        lines = concealment(who, context).lines(supervisor.logs.follow(tail=tail, generation=generation))
        followed = beating(lines, "\n")
        return UntilShutdownResponse(followed, context.shutdown.requested, headers=STREAM_HEADERS)
    # Its container is being removed, or was never made.
    report = None if generation == "all" else await _post_mortem_of(record, generation, context)
    if report is None and isinstance(generation, int) and record.instance(generation) is None:
        sentence = f"No instance of generation {generation} of {name} is there, or in the history."
        return problem(404, sentence, error_type="NoInstance", plugin=name)
    if report is not None:
        output = (report.log_tail or report.build_output).splitlines(keepends=True)
        return PlainTextResponse("".join(output[-tail:]))
    try:
        return PlainTextResponse(await supervisor.logs.last(tail=tail, generation=generation))
    except EngineError as error:
        return problem(503, f"The logs are unavailable: {error}.", error_type="LogsUnavailable", plugin=name)


async def _post_mortem_of(record: PluginRecord, generation: int | None, context: ApiContext) -> PostMortem | None:
    """Of the newest instance, or of this one; None while it is alive."""
    if generation is None:
        return record.instances[-1].post_mortem if record.instances else record.post_mortem
    for instance in record.instances:
        if instance.generation == generation:
            return instance.post_mortem
    return await context.history.post_mortem_of(record.name, generation)


async def after(supervisor: PluginSupervisor, context: ApiContext, wait: float) -> PluginDetailResponse | Response:
    """The answer to a command: the plugin as it is once it is ready, or after so many seconds."""
    if wait:
        with suppress(TimeoutError):
            await _unless_stopping(context, supervisor.wait_ready(wait))
    record = context.registry.get(supervisor.name)
    return unknown_plugin(supervisor.name) if record is None else detail_response(record, time.monotonic())


async def _unless_stopping(context: ApiContext, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises `TimeoutError` where the orchestrator begins to stop before there is one."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(context.shutdown.requested.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise TimeoutError
    finally:
        working.cancel()
        stopping.cancel()
