"""The envelope of every result and error, and the HTTP status of each outcome."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

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
            "files": [file.reference(run_id or "") for file in result.files] if result.files else (),
        }
    )
    return b'{"ok":%s,"result":' % (b"true" if result.ok else b"false"), b"," + rest[1:]


def result_headers(result: RunResult, run_id: str | None) -> dict[str, str]:
    headers = {} if run_id is None else {"x-run-id": run_id}
    if result.retry_after is not None:  # in whole seconds
        headers["retry-after"] = str(math.ceil(result.retry_after))
    return headers


class SendsWhole:
    """An exchange on whose connection a whole answer can be sent at once."""

    def send_whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | memoryview) -> bool:
        """Send it with these headers, whose names are in lower case; one has the length of `body`. False, and nothing
        is sent, where it has to be sent piece by piece.
        """
        raise NotImplementedError


class EnvelopeResponse(Response):
    """An envelope, encoded already. The names of `headers` are in lower case."""

    # The framework's own constructor looks for headers that are known here.

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        for name, value in headers.items():
            self.raw_headers.append((name.encode(), value.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # To the connection itself, where nothing stands between, in one step.
        exchange = getattr(send, "__self__", None)
        if isinstance(exchange, SendsWhole) and exchange.send_whole(self.status_code, self.raw_headers, self.body):
            return
        await super().__call__(scope, receive, send)


def respond(
    result: RunResult, *, plugin: str | None = None, tool: str | None = None, run_id: str | None = None
) -> Response:
    """The envelope as a response."""
    body = envelope(result, plugin=plugin, tool=tool, run_id=run_id)
    return EnvelopeResponse(body, STATUS[result.outcome], result_headers(result, run_id))


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
    return EnvelopeResponse(body, status)


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
