"""Tool calls of the scripted runtime: arguments in any of the protocol's encodings, and its answers."""

import base64
import inspect
import json
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from aiohttp import web

_SEVERAL = list[bytes]
_JSON_TYPES = {
    _SEVERAL: "array",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
}


class InvalidInput(Exception):  # noqa: N818  named as the plugin's own
    """What a tool raises for arguments that make no sense."""


class BadRequest(Exception):  # noqa: N818
    """A body that cannot be read."""


def describe_tool(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """A tool as the status object lists it. A function may carry its `input_schema`, `batch` and `idempotent`."""
    parameters = inspect.signature(function).parameters.values()
    streaming = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    given = {key: value for key, value in vars(function).items() if key in ("input_schema", "batch", "idempotent")}
    return {
        "name": name,
        "description": inspect.getdoc(function) or "",
        "input_schema": {
            "type": "object",
            "properties": {
                p.name: {"type": _JSON_TYPES[p.annotation]} if p.annotation in _JSON_TYPES else {} for p in parameters
            },
            "required": [p.name for p in parameters if p.default is p.empty],
            "additionalProperties": False,
        },
        "streaming": streaming,
        "uploads": {p.name: "path" if p.annotation is Path else "bytes" for p in _uploads(function)},
        **given,
    }


async def answer_call(request: web.Request, tools: Mapping[str, Callable[..., Any]]) -> web.StreamResponse:
    """Run the tool that `request` names."""
    name = request.match_info["name"]
    if (function := tools.get(name)) is None:
        return _failure(404, "unknown_tool", f"no tool named {name}", "LookupError")
    stores = any(parameter.annotation is Path for parameter in _uploads(function))
    with tempfile.TemporaryDirectory() if stores else nullcontext("") as scratch:
        try:
            arguments = await _arguments(request, function, Path(scratch))
            inspect.signature(function).bind(**arguments)
        except (BadRequest, ValueError) as error:
            return _failure(400, "bad_request", str(error), type(error).__name__)
        except TypeError as error:
            return _failure(422, "invalid_arguments", str(error), "TypeError")
        started = time.perf_counter()
        try:
            result = function(**arguments)
            if inspect.isgenerator(result) or inspect.isasyncgen(result):
                return await _stream(request, result, started)
            if inspect.isawaitable(result):
                result = await result
            body = {"ok": True, "result": result, "execution_time_ms": _since(started)}
            return web.json_response(body)
        except InvalidInput as error:
            return _failure(422, "invalid_input", str(error), "InvalidInput")
        except Exception as error:  # noqa: BLE001  it is a tool's
            code = getattr(error, "reason_code", None)
            return _failure(500, "exception", str(error), type(error).__name__, traceback.format_exc(), code)


async def _stream(request: web.Request, items: Any, started: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    count = 0
    end: dict[str, Any] = {"event": "end", "ok": True}
    try:
        async for item in _asynchronous(items):
            progress = isinstance(item, dict) and item.get("event") == "progress"
            count += not progress
            line = item if progress else {"event": "item", "data": item}
            await response.write(json.dumps(line).encode() + b"\n")
        end |= {"items": count, "execution_time_ms": _since(started)}
    except Exception as error:  # noqa: BLE001  it is a tool's
        kind = "invalid_input" if isinstance(error, InvalidInput) else "exception"
        end |= {"ok": False, "kind": kind, "error": str(error), "error_type": type(error).__name__}
        end["traceback"] = traceback.format_exc()
    await response.write(json.dumps(end).encode() + b"\n")
    return response


async def _asynchronous(items: Iterator[Any] | AsyncIterator[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterator):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _arguments(request: web.Request, function: Callable[..., Any], scratch: Path) -> dict[str, Any]:
    uploads = {parameter.name: parameter.annotation for parameter in _uploads(function)}
    if request.content_type == "application/json":
        body = await request.json()
        if not isinstance(body, dict):
            raise BadRequest("the body is no object")
        return {name: base64.b64decode(value) if uploads.get(name) is bytes else value for name, value in body.items()}
    if request.content_type == "multipart/form-data":
        arguments: dict[str, Any] = {}
        async for part in await request.multipart():
            name, body = str(part.name), bytes(await part.read(decode=True))
            upload = part.filename is not None or name in uploads
            value = _upload(body, uploads.get(name), scratch) if upload else _plain(body, function, name)
            arguments[name] = [*arguments.get(name, []), value] if uploads.get(name) == _SEVERAL else value
        return arguments
    if len(uploads) != 1:
        raise BadRequest("a raw body needs a tool with one upload")
    (name,) = uploads
    query = {key: _plain(value.encode(), function, key) for key, value in request.query.items()}
    return {**query, name: _upload(await request.read(), uploads[name], scratch)}


def _upload(body: bytes, kind: Any, scratch: Path) -> bytes | Path:
    if kind is not Path:
        return body
    path = scratch / str(len(list(scratch.iterdir())))
    path.write_bytes(body)
    return path


def _plain(body: bytes, function: Callable[..., Any], name: str) -> Any:
    text = body.decode()
    parameter = inspect.signature(function).parameters.get(name)
    if parameter is not None and parameter.annotation is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _uploads(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.annotation in (bytes, Path, _SEVERAL)]


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


class GpuOutOfMemory(Exception):  # noqa: N818
    """What a library raises, as the runtime recognises it."""

    reason_code = "GPU_OUT_OF_MEMORY"


class GpuLost(Exception):  # noqa: N818
    """What a tool raises whose container has lost its GPU, as the runtime found."""

    reason_code = "GPU_LOST"


def _failure(
    status: int, kind: str, error: str, error_type: str, trace: str | None = None, reason_code: str | None = None
) -> web.Response:
    body = {"ok": False, "kind": kind, "error": error, "error_type": error_type}
    if reason_code is not None:
        body["reason_code"] = reason_code
    if trace is not None:
        body["traceback"] = trace
    return web.json_response(body, status=status)
