"""The tool socket's service: one request after the other on each connection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from plugin_runtime.answers import JSON, log, refusal_body
from plugin_runtime.call_arguments import read_arguments
from plugin_runtime.calls import Call, answer_call
from plugin_runtime.execution import Stopwatch
from plugin_runtime.http_head import BadHead, response_head
from plugin_runtime.pulse import PULSE_PATH
from plugin_runtime.refusals import Refusal, Refused
from plugin_runtime.run_requests import answer_about_run
from plugin_runtime.tracing import take_trace
from plugin_runtime.uploads import UploadFolder, safe_run_id
from plugin_runtime.wire import Disconnected, Wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from plugin_runtime.environment import Environment
    from plugin_runtime.http_head import RequestHead
    from plugin_runtime.runs import RunBook
    from plugin_runtime.toolset import Tool

__all__ = ["ToolService", "log"]

ALIVE = response_head(200, JSON, 2, keep_alive=True) + b"{}"


class ToolService:
    """`oom_kills` is asked before every answer for the kills so far; the answer carries them."""

    def __init__(
        self, environment: Environment, tools: Mapping[str, Tool], book: RunBook, oom_kills: Callable[[], int]
    ) -> None:
        self._tools = tools
        self._book = book
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
        if head.path == PULSE_PATH:  # the supervisor, every few seconds, and in a container at rest nobody else
            wire.send(ALIVE)
            return head.keep_alive
        try:
            if head.path.startswith("/runs/"):
                answer_about_run(self._book, wire, head)
                refusal = None
            else:
                refusal = self._call(wire, head)
        except Refused as refused:
            refusal = refused.refusal
        keep_alive = head.keep_alive and not wire.body_left
        if refusal is not None:
            self._refuse(wire, refusal, keep_alive=keep_alive)
        return keep_alive

    def _call(self, wire: Wire, head: RequestHead) -> Refusal | None:
        """None where the answer was sent."""
        take_trace(head.headers)
        run = self._book.open(
            safe_run_id(head.headers.get("x-run-id", "")), keep=head.headers.get("x-run-keep", "") == "1"
        )
        call = Call(wire, head, run, self._book, Stopwatch(), self._max_result, str(self._scratch), self._oom_kills)
        try:
            return self._run(call)
        except Refused as refused:
            return call.refused(refused.refusal)
        finally:
            self._book.close(run)

    def _run(self, call: Call) -> Refusal | None:
        """Raises Refused before the tool's code runs."""
        tool = self._find(call.head)
        with UploadFolder(self._scratch, call.run.run_id, self._max_scratch) as folder:
            arguments = read_arguments(tool, call.head, call.wire.body(call.head), folder)
            if call.run.cancellation.asked:
                raise Refused("cancelled", "the run was cancelled before its tool began")
            return answer_call(call, tool, arguments)

    def _find(self, head: RequestHead) -> Tool:
        name = unquote(head.path.removeprefix("/tools/"))
        tool = self._tools.get(name)
        if head.method != "POST" or tool is None or not head.path.startswith("/tools/"):
            known = ", ".join(self._tools) or "none"
            raise Refused("unknown_tool", f"there is no {head.method} {head.path}; POST /tools/<name>, tools: {known}")
        return tool

    def _refuse(self, wire: Wire, refusal: Refusal, *, keep_alive: bool) -> None:
        body = refusal_body(refusal)
        try:
            head = response_head(refusal.status, JSON, len(body), keep_alive=keep_alive, oom_kills=self._oom_kills())
            wire.send(head + body)
        except Disconnected:
            return
