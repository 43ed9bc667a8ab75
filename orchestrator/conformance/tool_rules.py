"""The rules of the tool socket."""

import asyncio
import gzip
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.conformance.harness import BrokenRuleError, NotCheckedError, Rule, Subject, demand, object_of

_NO_CALL: Final = "give a tool and valid arguments (--call TOOL --arguments JSON)"
_UNKNOWN: Final = "no_such_parameter"


async def unknown_tool(subject: Subject) -> None:
    answer = await subject.tools.post("/tools/no-such-tool", json={}, headers=_run())
    _refusal(object_of(answer, 404), "unknown_tool")


async def broken_json(subject: Subject) -> None:
    headers = {"Content-Type": "application/json", **_run()}
    answer = await subject.tools.post(f"/tools/{_a_tool(subject)}", content=b'{"', headers=headers)
    _refusal(object_of(answer, 400), "bad_request")


async def unknown_parameter(subject: Subject) -> None:
    answer = await subject.tools.post(f"/tools/{_a_tool(subject)}", json={_UNKNOWN: 1}, headers=_run())
    content = object_of(answer, 422)
    _refusal(content, "invalid_arguments")
    demand(_UNKNOWN in content["error"], f"`error` does not name the parameter: {content['error']!r}")


async def missing_parameter(subject: Subject) -> None:
    for tool in subject.status["tools"]:
        required = tool["input_schema"].get("required") or []
        if required:
            answer = await subject.tools.post(f"/tools/{tool['name']}", json={}, headers=_run())
            content = object_of(answer, 422)
            _refusal(content, "invalid_arguments")
            demand(required[0] in content["error"], f"`error` does not name {required[0]}: {content['error']!r}")
            return
    raise NotCheckedError("no tool has a required parameter")


async def call_returns(subject: Subject) -> None:
    name, arguments = _given_call(subject)
    tool = _described(subject, name)
    answer = await subject.tools.post(f"/tools/{name}", json=arguments, headers=_run())
    if tool["streaming"]:
        demand(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
        _streamed(answer.text, answer.headers.get("content-type", ""))
    else:
        _returned(object_of(answer, 200))


async def compressed_body(subject: Subject) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    path = f"/tools/{_a_tool(subject)}"
    # The refusal names the parameter only where the runtime has read the body.
    body = gzip.compress(json.dumps({_UNKNOWN: 1}).encode())
    answer = await subject.tools.post(path, content=body, headers={**headers, **_run()})
    if answer.status_code == 415:
        _refusal(object_of(answer, 415), "unsupported_media_type")
        return
    content = object_of(answer, 422)
    demand(_UNKNOWN in content.get("error", ""), f"a gzip body was not decompressed: {content.get('error')!r}")
    broken = await subject.tools.post(path, content=body[:-6], headers={**headers, **_run()})
    _refusal(object_of(broken, 400), "bad_request")


async def calls_share_a_connection(subject: Subject) -> None:
    name, arguments = _given_call(subject)
    # On a bare socket: an HTTP client would hide a closed connection by opening another.
    reader, writer = await asyncio.open_unix_connection(str(subject.endpoint.tools))
    try:
        for count in (1, 2):
            body = json.dumps(arguments).encode()
            head = f"POST /tools/{name} HTTP/1.1\r\nHost: plugin\r\nX-Run-Id: {secrets.token_hex(8)}\r\n"
            writer.write(head.encode() + b"Content-Type: application/json\r\n")
            writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            line = await reader.readline()
            demand(line.startswith(b"HTTP/1.1 200"), f"call {count} on one connection was answered {line[:60]!r}")
            length = 0
            while (header := await reader.readline()).strip():
                key, _, value = header.decode("latin-1").partition(":")
                length = int(value) if key.lower() == "content-length" else length
            if not length:
                raise NotCheckedError("the answer is streamed")
            await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise BrokenRuleError("the connection was closed in the middle of an answer") from None
    finally:
        writer.close()


async def calls_run_concurrently(subject: Subject) -> None:
    # One that sends nothing, and one that stops in the middle of its body.
    _, idle = await asyncio.open_unix_connection(str(subject.endpoint.tools))
    _, incomplete = await asyncio.open_unix_connection(str(subject.endpoint.tools))
    incomplete.write(b"POST /tools/x HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    try:
        async with asyncio.timeout(2):
            await subject.tools.post("/tools/no-such-tool", json={}, headers=_run())
            object_of(await subject.control.get("/status"), 200)
    except TimeoutError:
        raise BrokenRuleError("a slow caller blocks other callers") from None
    finally:
        idle.close()
        incomplete.close()


async def unknown_run(subject: Subject) -> None:
    answer = await subject.tools.get(f"/runs/{secrets.token_hex(8)}")
    _refusal(object_of(answer, 404), "unknown_run")


async def stored_run(subject: Subject) -> None:
    name, arguments = _given_call(subject)
    headers = _run()
    first = await subject.tools.post(f"/tools/{name}", json=arguments, headers={**headers, "X-Run-Keep": "1"})
    demand(first.status_code == 200, f"status {first.status_code}: {first.text[:200]}")
    path = f"/runs/{headers['X-Run-Id']}"
    # Twice: to read it must not delete it.
    for _ in range(2):
        _returned(object_of(await subject.tools.get(path), 200))
    demand((await subject.tools.delete(path)).status_code == 200, "DELETE is not answered with 200")
    _refusal(object_of(await subject.tools.get(path), 404), "unknown_run")


def _run() -> dict[str, str]:
    return {"X-Run-Id": secrets.token_hex(8)}


def _a_tool(subject: Subject) -> str:
    if not subject.status["tools"]:
        raise NotCheckedError("the image has no tool")
    return str(subject.status["tools"][0]["name"])


def _given_call(subject: Subject) -> tuple[str, Mapping[str, Any]]:
    if subject.call is None:
        raise NotCheckedError(_NO_CALL)
    return subject.call


def _described(subject: Subject, name: str) -> Mapping[str, Any]:
    for tool in subject.status["tools"]:
        if tool["name"] == name:
            return dict(tool)
    raise BrokenRuleError(f"the status lists no tool {name!r}")


def _refusal(content: Mapping[str, Any], kind: str) -> None:
    demand(content.get("ok") is False, f"`ok` is {content.get('ok')!r}, not false")
    demand(content.get("kind") == kind, f"`kind` is {content.get('kind')!r}, not {kind!r}")
    for name in ("error", "error_type"):
        demand(isinstance(content.get(name), str), f"`{name}` is not a string")


def _returned(content: Mapping[str, Any]) -> None:
    demand(content.get("ok") is True, f"`ok` is {content.get('ok')!r}, not true")
    demand("result" in content, "`result` is missing")
    took = content.get("execution_time_ms")
    demand(isinstance(took, int | float) and not isinstance(took, bool), "`execution_time_ms` is not a number")


def _streamed(text: str, content_type: str) -> None:
    demand(content_type.startswith("application/x-ndjson"), f"Content-Type is {content_type!r}")
    try:
        events = [json.loads(line) for line in text.splitlines() if line]
    except ValueError:
        raise BrokenRuleError("a line of the stream is no JSON") from None
    kinds = [event.get("event") for event in events]
    demand(kinds and kinds[-1] == "end", "the stream does not end with the event `end`")
    demand(set(kinds[:-1]) <= {"progress", "item"}, f"unknown events among {sorted(set(map(str, kinds)))}")
    demand(events[-1].get("ok") is True, f"the call failed: {events[-1].get('error')}")
    demand(events[-1].get("items") == kinds.count("item"), "`items` is not the number of items")


RULES: Final = (
    Rule("unknown-tool", "An unknown tool is answered with 404 `unknown_tool`.", unknown_tool),
    Rule("broken-json", "A body that is not JSON is answered with 400 `bad_request`.", broken_json),
    Rule("unknown-parameter", "An unknown parameter is named in 422 `invalid_arguments`.", unknown_parameter),
    Rule("missing-parameter", "A missing required parameter is named in 422 `invalid_arguments`.", missing_parameter),
    Rule("content-encoding", "A body in gzip is decompressed, or answered with 415.", compressed_body),
    Rule("call", "A valid call is answered with its result, or with a stream that ends with `end`.", call_returns),
    Rule("keep-alive", "One connection takes several calls, one after another.", calls_share_a_connection),
    Rule("side-by-side", "Calls on different connections run concurrently.", calls_run_concurrently),
    Rule("unknown-run", "An unknown run is answered with 404 `unknown_run`.", unknown_run),
    Rule("kept-run", "With X-Run-Keep the answer can be fetched again until it is deleted.", stored_run),
)
