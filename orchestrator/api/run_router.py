"""POST /v1/plugins/{name}/tools/{tool}/run: passes the body on to the plugin, and its answer back in the envelope."""

import asyncio
import os
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from msgspec.structs import replace

from orchestrator.access.principal import Principal
from orchestrator.api.body import MAX_SHORT_BODY, QueuedBody, RequestBody, body_limit, read_short_body, too_large
from orchestrator.api.concealment import Concealment, concealment
from orchestrator.api.context import FROM_FRONT, ApiContext, Context, Who
from orchestrator.api.file_response import StoredFileResponse
from orchestrator.api.problems import problem, respond, unknown_plugin
from orchestrator.api.request_headers import (
    CODINGS,
    FRONT_RUN_ID,
    RESPOND_ASYNC,
    RETRY,
    AcceptedFile,
    UnknownCodingError,
    body_headers,
    preferences,
    run_headers,
    trace_context,
    wanted_stream,
)
from orchestrator.api.run_model import RunResponse, run_response
from orchestrator.api.run_stream import streamed
from orchestrator.formatting import quoted
from orchestrator.registry import PluginRecord
from orchestrator.sandbox.call import STATUS, BodyError, Outcome, RunResult, StreamedBody, ToolCall, is_run_id
from orchestrator.tools import refusals

router = APIRouter(tags=["tools"])

_DISCONNECT_WATCH_DELAY: Final = 0.05  # seconds until a run's caller is watched; most have ended by then


@router.post(
    "/v1/plugins/{name}/tools/{tool}/run",
    responses={
        **{status: {"description": "The result envelope"} for status in sorted(set(STATUS.values()))},
        202: {"model": RunResponse, "description": "The run was accepted (Prefer: respond-async)"},
        406: {"description": "The run has ended well, and has nothing that Accept takes: the envelope has its result"},
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
async def run_tool(name: str, tool: str, request: Request, context: Context, who: Who) -> Response:
    """Run a tool. JSON or multipart in; the result envelope out, or its events as NDJSON or SSE where `Accept` names
    one of them, with a heartbeat after 15 s of silence. Where `Accept` prefers another media type and one file of the
    result has it, that file is the answer. With `Prefer: respond-async` 202 and the run at once:
    `GET /v1/runs/{run_id}/result` has its result. With `Prefer: retry` a run of an idempotent tool whose instance dies
    under it is made once more, within its time limit and unless a part of its stream has been sent.

    `X-Run-Id` in the request, 32 hexadecimal digits, becomes the run's id. Without it, a caller that disconnects
    cancels its run: an async tool and a generator stop, a tool that calls `cancelled()` sees it, any other goes on.
    """
    record = context.registry.get(name)
    if record is None:
        return unknown_plugin(name)
    if context.tool_runner.draining:  # before its body is read
        return respond(refusals.stopping(), plugin=name, tool=tool)
    headers = run_headers(request.scope["headers"])
    chosen_id = headers.get("x-run-id")
    if chosen_id is None:
        return await _run(request, headers, record, tool, run_id=_new_id(request, headers), context=context, who=who)
    if not is_run_id(chosen_id):
        sentence = "X-Run-Id has to be 32 hexadecimal digits in lower case; without it the run is given an id."
        return problem(422, sentence, error_type="InvalidRunId", plugin=name)
    with context.tool_runner.idempotency_keys.request(chosen_id):
        if await context.tool_runner.lookup.one(chosen_id) is not None:
            return respond(refusals.run_id_taken(), plugin=name)
        return await _run(request, headers, record, tool, run_id=chosen_id, context=context, who=who)


def _new_id(request: Request, headers: Mapping[str, str]) -> str:
    made = headers.get(FRONT_RUN_ID, "")
    return made if request.scope.get(FROM_FRONT) and is_run_id(made) else os.urandom(16).hex()


async def _run(
    request: Request,
    headers: Mapping[str, str],
    record: PluginRecord,
    tool: str,
    *,
    run_id: str,
    context: ApiContext,
    who: Principal,
) -> Response:
    name = record.name
    preferred = preferences(headers["prefer"]) if "prefer" in headers else frozenset()
    asynchronous = RESPOND_ASYNC in preferred
    try:
        about_body = body_headers(headers)
    except UnknownCodingError as error:
        result = RunResult(Outcome.UNSUPPORTED_MEDIA_TYPE, error=str(error), error_type="UnsupportedMediaType")
        answer = respond(result, plugin=name, tool=tool, run_id=run_id)
        answer.headers["Accept-Encoding"] = ", ".join(CODINGS)
        return answer
    try:
        body = await _body(request, headers, record, context, asynchronous=asynchronous)
    except BodyError as error:
        return respond(RunResult(error.outcome, error=str(error)), plugin=name, tool=tool, run_id=run_id)
    call = ToolCall(
        tool=tool,
        run_id=run_id,
        content_type=headers.get("content-type", "application/json"),
        body=body,
        query=request.scope["query_string"].decode("latin-1"),
        trace=trace_context(headers),
        body_headers=about_body,
        id_chosen="x-run-id" in headers,
        caller=who.name,
        share=who.grant.share,
        retry=RETRY in preferred,
    )
    shown = concealment(who, context)
    answer = await _answered(request, headers, record, call, context, shown=shown, asynchronous=asynchronous)
    applied = [RESPOND_ASYNC] if answer.status_code == 202 else []
    if call.retry and any(known["name"] == tool and known.get("idempotent") for known in record.tools):
        applied.append(RETRY)
    if applied:
        answer.headers["Preference-Applied"] = ", ".join(applied)
    return answer


async def _answered(
    request: Request,
    headers: Mapping[str, str],
    record: PluginRecord,
    call: ToolCall,
    context: ApiContext,
    *,
    shown: Concealment,
    asynchronous: bool,
) -> Response:
    name = record.name
    if asynchronous:
        return await _start(name, call, context, shown, root=request.scope.get("root_path", ""))
    accept = headers.get("accept", "")
    media_type = wanted_stream(accept)
    with _DisconnectWatch(request, call, context):
        if media_type is not None:
            return await streamed(name, call, context, media_type, shown)
        result = shown.result(await context.tool_runner.run(name, call))
    answer = await _answer(result, name, call, accept, context)
    if (root := request.scope.get("root_path")) and "content-location" in answer.headers:
        answer.headers["Content-Location"] = root + answer.headers["content-location"]
    return answer


async def _answer(result: RunResult, name: str, call: ToolCall, accept: str, context: ApiContext) -> Response:
    """The envelope, or the file that the caller prefers to it."""
    wanted = AcceptedFile.wanted(accept)
    if wanted is None or not result.ok:
        return respond(result, plugin=name, tool=call.tool, run_id=call.run_id)
    if (file := await _preferred_file(result, wanted, call.run_id, context)) is not None:
        return file
    if wanted.takes_json:
        return respond(result, plugin=name, tool=call.tool, run_id=call.run_id)
    answer = respond(_not_acceptable(result, accept), plugin=name, tool=call.tool, run_id=call.run_id)
    answer.status_code = 406
    return answer


async def _preferred_file(
    result: RunResult, wanted: AcceptedFile, run_id: str, context: ApiContext
) -> StoredFileResponse | None:
    """The one file of the result that the caller prefers to the envelope."""
    index = wanted.choose([file.media_type for file in result.files])
    if index is None:
        return None
    file = result.files[index]
    stored = await context.tool_runner.results.find_file(run_id, file.name)
    if stored is None:
        return None
    location = {"Content-Location": str(file.reference(run_id)["url"])}
    return StoredFileResponse(stored, {"X-Run-Id": run_id, **location})


def _not_acceptable(result: RunResult, accept: str) -> RunResult:
    """For a caller that takes nothing of what its run gave. The run has ended well, so its result is there."""
    given = ", ".join(sorted({file.media_type for file in result.files})) or "none"
    sentence = (
        f"The run has ended well, but not exactly one file of its result is of a type that Accept takes "
        f"({quoted(accept)}; files: {given}), and JSON is not taken either. `result` has the result, and the `url` of "
        "each file. Add application/json to Accept."
    )
    return replace(result, outcome=Outcome.BAD_REQUEST, error=sentence, error_type="NotAcceptable", from_plugin=False)


async def _body(
    request: Request, headers: Mapping[str, str], record: PluginRecord, context: ApiContext, *, asynchronous: bool
) -> bytes | StreamedBody:
    """Raises `BodyError`."""
    limit = body_limit(record)
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers:
        return b""
    if length is not None and (not length.isdigit() or int(length) > limit):
        raise too_large(limit)
    if length is not None and int(length) <= MAX_SHORT_BODY:
        return await read_short_body(request.scope, request.receive, context.pace)
    body = RequestBody(request.receive, limit=limit, pace=context.pace)
    # The caller of an asynchronous run does not stay to send its body later.
    return await body.spool(context.spool) if asynchronous else QueuedBody(body, context.spool)


async def _start(name: str, call: ToolCall, context: ApiContext, shown: Concealment, *, root: str) -> Response:
    accepted = await context.tool_runner.start(name, call)
    if isinstance(accepted, RunResult):
        return respond(shown.result(accepted), plugin=name, tool=call.tool, run_id=call.run_id)
    headers = {
        "Location": f"{root}/v1/runs/{call.run_id}",
        "X-Run-Id": call.run_id,
    }
    return JSONResponse(run_response(accepted).model_dump(mode="json"), status_code=202, headers=headers)


class _DisconnectWatch:
    """While it is entered, reports a caller that disconnects, so that its run leaves the queue or is cancelled."""

    __slots__ = ("_body", "_context", "_request", "_run_id", "_timer", "_watcher")

    def __init__(self, request: Request, call: ToolCall, context: ApiContext) -> None:
        self._request = request
        self._run_id = call.run_id
        self._context = context
        self._watcher: asyncio.Task[None] | None = None
        # A caller whose body is still to be read is noticed by that.
        loop = asyncio.get_running_loop()
        self._body = call.body if isinstance(call.body, QueuedBody) else None
        self._timer = loop.call_later(_DISCONNECT_WATCH_DELAY, self._start) if self._body is None else None
        if self._body is not None:
            self._body.on_stored = self._start

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._body is not None:
            self._body.close()
        if self._watcher is not None:
            self._watcher.cancel()

    def _start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._context.tool_runner.caller_disconnected(self._run_id)
