"""The envelope of every result and error, and the HTTP status of each outcome."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from orchestrator.formatting import MAX_NAME_LENGTH, quoted
from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import STATUS, Outcome, RunResult
from orchestrator.supervisor.release_store import ReleaseStoreError
from orchestrator.supervisor.releases import UpdateRefusedError
from orchestrator.tools import refusals

_ERROR_TYPES: Final[Mapping[Outcome, str]] = {
    Outcome.UNKNOWN_TOOL: "UnknownTool",
    Outcome.TOO_LARGE: "TooLarge",
    Outcome.CANCELLED: "Cancelled",
}
"""For results that name no error type of their own."""
_ROUTING: Final[Mapping[int, tuple[str, str]]] = {
    404: ("No such route. /docs lists all routes.", "UnknownRoute"),
    405: ("Method not allowed. /docs lists the methods of each route.", "MethodNotAllowed"),
}
_READER_RETRY_AFTER: Final = "5"  # seconds


def envelope(result: RunResult, *, plugin: str | None, tool: str | None, run_id: str | None) -> bytes:
    """The result envelope, as JSON."""
    # The tool's JSON text is inserted as it is: it has been checked, and it may be long.
    before, after = envelope_around(result, plugin=plugin, tool=tool, run_id=run_id)
    return b"%s%s%s" % (before, result.result or b"null", after)


def envelope_around(
    result: RunResult, *, plugin: str | None, tool: str | None, run_id: str | None
) -> tuple[bytes, bytes]:
    """The JSON before and after the tool's own JSON text."""
    rest = msgspec.json.encode(
        {
            "error": result.error,
            "error_type": result.error_type or _ERROR_TYPES.get(result.outcome),
            "reason_code": result.reason_code,
            "source": "plugin" if result.from_plugin else "orchestrator",
            "plugin": plugin and plugin[:MAX_NAME_LENGTH],
            "tool": tool and tool[:MAX_NAME_LENGTH],
            "run_id": run_id,
            "execution_time_ms": round(result.execution_time_ms, 3),
            "files": [file.reference(run_id or "") for file in result.files],
        }
    )
    return b'{"ok":%s,"result":' % (b"true" if result.ok else b"false"), b"," + rest[1:]


def result_headers(result: RunResult, run_id: str | None) -> dict[str, str]:
    # The header takes whole seconds.
    headers = {} if result.retry_after is None else {"Retry-After": str(math.ceil(result.retry_after))}
    return headers if run_id is None else {**headers, "X-Run-Id": run_id}


def respond(
    result: RunResult, *, plugin: str | None = None, tool: str | None = None, run_id: str | None = None
) -> Response:
    """The envelope as a response."""
    return Response(
        envelope(result, plugin=plugin, tool=tool, run_id=run_id),
        status_code=STATUS[result.outcome],
        media_type="application/json",
        headers=result_headers(result, run_id),
    )


def problem(
    status: int,
    sentence: str,
    *,
    error_type: str | None = None,
    plugin: str | None = None,
    reason_code: ReasonCode | None = None,
) -> Response:
    """An error that belongs to no run, in the same envelope."""
    result = RunResult(Outcome.BAD_REQUEST, error=sentence, error_type=error_type, reason_code=reason_code)
    body = envelope(result, plugin=plugin, tool=None, run_id=None)
    return Response(body, status_code=status, media_type="application/json")


def unknown_plugin(name: str, *, searched: bool = False) -> Response:
    return respond(refusals.unknown_plugin(name, searched=searched), plugin=name)


def too_many_readers(sentence: str, plugin: str | None) -> Response:
    """For one more reader of events; `plugin`: of those alone."""
    response = problem(429, sentence, error_type="TooManyReaders", plugin=plugin)
    response.headers["Retry-After"] = _READER_RETRY_AFTER
    return response


def hosts_need_every_plugin() -> Response:
    """For a command about a host by a key for some plugins: what becomes of a host becomes of all of them."""
    sentence = "This API key is for some plugins only; a command about a host needs one that operates every plugin."
    return problem(403, sentence, error_type="KeyForSomePlugins")


def defect() -> Response:
    return problem(500, "A defect in the orchestrator; its log has the details.", error_type="InternalError")


def install(app: FastAPI) -> None:
    """Answer the framework's own errors, and what a plugin's releases refuse, in the envelope too."""

    # Starlette's, which the router raises too; FastAPI's is a kind of it.
    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        sentence, error_type = _ROUTING.get(error.status_code, (str(error.detail), "InvalidRequest"))
        response = problem(error.status_code, sentence, error_type=error_type)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        for item in found:
            if item["type"] == "json_invalid":
                what = f"{item['ctx']['error']} at character {item['loc'][-1]}"
                return problem(400, f"The body is no JSON: {what}.", error_type="BadRequest")
        return problem(422, "; ".join(map(_invalid, found[:5])), error_type="InvalidRequest")

    @app.exception_handler(UpdateRefusedError)
    async def refused(request: Request, error: UpdateRefusedError) -> Response:
        return problem(409, str(error), error_type=error.kind, plugin=request.path_params.get("name"))

    @app.exception_handler(ReleaseStoreError)
    async def not_stored(request: Request, error: ReleaseStoreError) -> Response:
        sentence = f"Nothing was done. {error}"
        return problem(503, sentence, error_type="NotStored", plugin=request.path_params.get("name"))

    @app.exception_handler(Exception)
    async def internal_error(_: Request, __: Exception) -> Response:
        # The framework raises it again once this is sent, so the server logs it.
        return defect()


def _invalid(item: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one per kind
    """What pydantic found, in the words that the rest of the API has."""
    names = [part for part in item["loc"][1:] if isinstance(part, str)]
    name, got, limits = names[-1] if names else "the body", quoted(str(item.get("input"))), item.get("ctx") or {}
    match item["type"]:
        case "missing":
            return f"{name} is missing"
        case "extra_forbidden":
            return f"{name}: unknown field"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{name}: expected a whole number, not {got}"
        case "greater_than_equal":
            return f"{name}: expected {limits['ge']:g} or more, not {got}"
        case "less_than_equal":
            return f"{name}: expected {limits['le']:g} or less, not {got}"
        case "model_attributes_type" | "model_type" | "dict_type":
            return f"{name}: expected a JSON object, sent as application/json, not {got}"
        case _:
            said = str(item["msg"]).replace("Input should be", "expected", 1)
            return f"{name}: {said[:1].lower()}{said[1:]}, not {got}"
