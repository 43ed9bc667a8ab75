"""POST /v1/plugins/{name}/tools/{tool}/run: the body goes on to the plugin as it comes, the answer comes back in the
envelope.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from orchestrator.api.body import SHORT, limited, stored, too_large, whole
from orchestrator.api.context import ApiContext, Context
from orchestrator.api.preferences import responds_async, wanted_stream
from orchestrator.api.problems import STATUS, problem, respond, unknown_plugin
from orchestrator.api.run_model import RunResponse, run_response
from orchestrator.api.run_stream import streamed
from orchestrator.api.trace_headers import trace_context
from orchestrator.registry import PluginRecord
from orchestrator.sandbox.call import BodyError, Outcome, RunResult, ToolCall, is_run_id
from orchestrator.tools import refusals

router = APIRouter(tags=["tools"])

_HEEDED: Final = frozenset(
    {
        b"accept",
        b"content-length",
        b"content-type",
        b"prefer",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        b"x-run-id",
    }
)
_BODY_ROOM: Final = 1024 * 1024
"""Bytes that a body may have beside the uploads: field names, boundaries, other arguments."""
_LOOK_AFTER: Final = 0.05
"""Seconds that a run takes before it is looked whether its caller is still there; most have ended by then."""


@router.post(
    "/v1/plugins/{name}/tools/{tool}/run",
    responses={
        **{status: {"description": "The result envelope"} for status in sorted(set(STATUS.values()))},
        202: {"model": RunResponse, "description": "The run was begun (Prefer: respond-async)"},
    },
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "multipart/form-data": {"schema": {"type": "object"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            }
        }
    },
)
async def run_tool(name: str, tool: str, request: Request, context: Context) -> Response:
    """Run a tool. JSON or multipart in; the result envelope out, or its events as NDJSON or SSE where `Accept` asks
    for that. With `Prefer: respond-async` 202 and the run at once: `GET /v1/runs/{run_id}/result` has its result.

    `X-Run-Id` in the request, 32 hexadecimal digits, is the run's id from then on.
    """
    record = context.registry.get(name)
    if record is None:
        return unknown_plugin(name)
    headers = _headers(request)
    own_id = headers.get("x-run-id")
    if own_id is None:
        return await _run(request, headers, record, tool, run_id=secrets.token_hex(16), context=context)
    if not is_run_id(own_id):
        sentence = "X-Run-Id has to be 32 hexadecimal digits in lower case; without it the run is given an id."
        return problem(422, sentence, error_type="InvalidRunId", plugin=name)
    with context.tool_runner.idempotency_keys.asked(own_id):
        if await context.tool_runner.lookup.one(own_id) is not None:
            return respond(refusals.run_id_taken(), plugin=name)
        return await _run(request, headers, record, tool, run_id=own_id, context=context)


async def _run(
    request: Request, headers: Mapping[str, str], record: PluginRecord, tool: str, *, run_id: str, context: ApiContext
) -> Response:
    name = record.name
    in_background = "prefer" in headers and responds_async(headers["prefer"])
    try:
        body = await _body(request, headers, record, context, in_background=in_background)
    except BodyError as error:
        return respond(RunResult(error.outcome, error=str(error)), plugin=name, tool=tool, run_id=run_id)
    call = ToolCall(
        tool=tool,
        run_id=run_id,
        content_type=headers.get("content-type", "application/json"),
        body=body,
        query=request.scope["query_string"].decode("latin-1"),
        trace=trace_context(headers),
    )
    if in_background:
        return await _begin(name, call, context)
    media_type = wanted_stream(headers.get("accept", ""))
    with _CallerWatch(request, call, context):
        if media_type is not None:
            return await streamed(name, call, context, media_type)
        return respond(await context.tool_runner.run(name, call), plugin=name, tool=tool, run_id=run_id)


def _headers(request: Request) -> Mapping[str, str]:
    """Those that a run heeds; one that came several times as the list that it is then."""
    found: dict[str, str] = {}
    for name, value in request.scope["headers"]:
        if name in _HEEDED:
            key, text = name.decode(), value.decode("latin-1")
            found[key] = f"{found[key]},{text}" if key in found else text
    return found


async def _body(
    request: Request, headers: Mapping[str, str], record: PluginRecord, context: ApiContext, *, in_background: bool
) -> bytes | AsyncIterator[bytes]:
    """Whole where it is short, or nobody is there to send it later; else as it comes. Raises `BodyError`."""
    limit = (record.limits.scratch if record.limits else 0) + _BODY_ROOM
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers:
        return b""
    if length is not None and (not length.isdigit() or int(length) > limit):
        raise BodyError(Outcome.TOO_LARGE, too_large(limit))
    if length is not None and int(length) <= SHORT:
        return await whole(request, context.pace)
    if in_background:
        return await stored(request, limit=limit, pace=context.pace, folder=context.spool)
    return limited(request, limit)


async def _begin(name: str, call: ToolCall, context: ApiContext) -> Response:
    begun = await context.tool_runner.begin(name, call)
    if isinstance(begun, RunResult):
        return respond(begun, plugin=name, tool=call.tool, run_id=call.run_id)
    headers = {
        "Location": f"/v1/runs/{call.run_id}",
        "Preference-Applied": "respond-async",
        "X-Run-Id": call.run_id,
    }
    return JSONResponse(run_response(begun).model_dump(mode="json"), status_code=202, headers=headers)


class _CallerWatch:
    """Meanwhile, a caller that hangs up gives up its place among the runs that wait. One whose body is still to be read
    is noticed by that.
    """

    __slots__ = ("_context", "_later", "_request", "_run_id", "_watcher")

    def __init__(self, request: Request, call: ToolCall, context: ApiContext) -> None:
        self._request = request
        self._run_id = call.run_id
        self._context = context
        self._watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._later = loop.call_later(_LOOK_AFTER, self._begin) if isinstance(call.body, bytes) else None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._later is not None:
            self._later.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._context.tool_runner.give_up(self._run_id)
