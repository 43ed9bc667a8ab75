"""The tool socket's service: one request after the other on each connection, and the answers of the protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import msgspec

from plugin_runtime.authoring import Progress
from plugin_runtime.call_arguments import read_arguments
from plugin_runtime.execution import Steps, Stopwatch, refusal_of
from plugin_runtime.http_head import BadHead, chunk, response_head
from plugin_runtime.refusals import Refusal, Refused
from plugin_runtime.results import encode_result
from plugin_runtime.uploads import UploadFolder, safe_run_id
from plugin_runtime.wire import Disconnected, Wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from plugin_runtime.environment import Environment
    from plugin_runtime.http_head import RequestHead
    from plugin_runtime.toolset import Tool

JSON = "application/json"
LINES = "application/x-ndjson"
END = (StopIteration, StopAsyncIteration)


class ToolService:
    """`oom_kills` is asked before every answer for the kills so far; the answer carries them."""

    def __init__(self, environment: Environment, tools: Mapping[str, Tool], oom_kills: Callable[[], int]) -> None:
        self._tools = tools
        self._scratch = Path(environment.scratch_dir)
        self._max_result = environment.max_result
        self._max_scratch = environment.max_scratch
        self._oom_kills = oom_kills

    def serve(self, peer: socket.socket) -> None:
        """One connection, until either side ends it."""
        wire = Wire(peer)
        try:
            while self._serve_request(wire):
                pass
        except Disconnected:
            pass
        except BadHead as error:
            self._refuse(wire, Refusal("bad_request", str(error), "BadRequest"), keep_alive=False)
        finally:
            wire.close_gently()

    def _serve_request(self, wire: Wire) -> bool:
        """False where the connection is over."""
        head = wire.read_head()
        if head is None:
            return False
        run_id = safe_run_id(head.headers.get("x-run-id", ""))
        watch = Stopwatch()
        try:
            tool = self._find(head)
            with UploadFolder(self._scratch, run_id, self._max_scratch) as folder:
                arguments = read_arguments(tool, head, wire.body(head), folder)
                answer = self._stream if tool.streaming else self._answer
                refusal = answer(Call(wire, head, tool, arguments, run_id, watch))
        except Refused as refused:
            refusal = refused.refusal
        keep_alive = head.keep_alive and not wire.body_left
        if refusal is not None:
            self._refuse(wire, refusal, keep_alive=keep_alive)
        return keep_alive

    def _find(self, head: RequestHead) -> Tool:
        name = unquote(head.path.removeprefix("/tools/"))
        tool = self._tools.get(name)
        if head.method != "POST" or tool is None or not head.path.startswith("/tools/"):
            known = ", ".join(self._tools) or "none"
            raise Refused("unknown_tool", f"there is no {head.method} {head.path}; POST /tools/<name>, tools: {known}")
        return tool

    def _answer(self, call: Call) -> Refusal | None:
        """Run a tool that returns. None where its result was sent."""
        outcome = call.watch.run(call.tool.call, call.arguments)
        if outcome.error is not None:
            return call.refusal_of(outcome.error)
        encoded = encode_result(outcome.value, self._max_result)
        body = b'{"ok":true,"result":%b,"execution_time_ms":%b}' % (encoded, str(call.watch.milliseconds).encode())
        head = response_head(200, JSON, len(body), keep_alive=call.head.keep_alive, oom_kills=self._oom_kills())
        call.wire.send(head + body)
        return None

    def _stream(self, call: Call) -> Refusal | None:
        """Run a generator. None where its events were sent; what it refuses before its first event is told plainly."""
        made = call.watch.run(call.tool.call, call.arguments)
        if made.error is not None:
            return call.refusal_of(made.error)
        steps = Steps(made.value)
        outcome = call.watch.run(steps.next, {})
        if outcome.error is not None and refusal_of(outcome.error).kind == "invalid_input":
            return call.refusal_of(outcome.error)
        pending = response_head(200, LINES, None, keep_alive=call.head.keep_alive)
        items = 0
        try:
            while outcome.error is None:
                items += not isinstance(outcome.value, Progress)
                pending += chunk(self._event(outcome.value))
                call.wire.send(pending)
                pending = b""
                outcome = call.watch.run(steps.next, {})
            refusal = None if isinstance(outcome.error, END) else call.refusal_of(outcome.error)
        except Refused as refused:
            refusal = refused.refusal
            items -= 1
            steps.close()
        except Disconnected:
            steps.close()
            raise
        end = end_event(refusal, items, call.watch.milliseconds, self._oom_kills())
        call.wire.send(pending + chunk(end) + chunk(b""))
        return None

    def _event(self, value: Any) -> bytes:
        if isinstance(value, Progress):
            event = {"event": "progress", "fraction": value.fraction, "message": value.message}
            return encode_result(event, self._max_result, "the progress") + b"\n"
        return b'{"event":"item","data":%b}\n' % encode_result(value, self._max_result, "the item")

    def _refuse(self, wire: Wire, refusal: Refusal, *, keep_alive: bool) -> None:
        body = msgspec.json.encode({"ok": False, **told(refusal)})
        try:
            head = response_head(refusal.status, JSON, len(body), keep_alive=keep_alive, oom_kills=self._oom_kills())
            wire.send(head + body)
        except Disconnected:
            return


class Call(NamedTuple):
    """One run of a tool on its way."""

    wire: Wire
    head: RequestHead
    tool: Tool
    arguments: dict[str, Any]
    run_id: str
    watch: Stopwatch

    def refusal_of(self, error: BaseException) -> Refusal:
        """What the caller is told; the container's log gets the traceback."""
        refusal = refusal_of(error)
        if refusal.traceback is not None:
            log(f"run {self.run_id}: tool {self.tool.name} raised {refusal.error_type}\n{refusal.traceback}")
        return refusal


def told(refusal: Refusal) -> dict[str, Any]:
    """A refusal's members of an answer."""
    members = refusal._asdict()
    if refusal.traceback is None:
        del members["traceback"]
    return members


def end_event(refusal: Refusal | None, items: int, milliseconds: float, oom_kills: int) -> bytes:
    """The last line of a stream."""
    outcome: dict[str, Any] = {"items": items, "execution_time_ms": milliseconds} if refusal is None else told(refusal)
    if oom_kills:
        outcome["oom_kills"] = oom_kills
    return msgspec.json.encode({"event": "end", "ok": refusal is None, **outcome}) + b"\n"


def log(text: str) -> None:
    """To the container's log, past whatever the plugin made of sys.stderr."""
    try:
        os.write(2, text.encode())
    except OSError:
        return
