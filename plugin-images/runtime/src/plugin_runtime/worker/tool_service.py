"""The tool socket's service: one request after the other on each connection."""

from __future__ import annotations

import contextlib
import traceback
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from plugin_runtime.http.connection import Disconnected, HttpServerConnection
from plugin_runtime.http.head import BadHead, response_head
from plugin_runtime.shared.processes import LIVENESS_PATH, write_log
from plugin_runtime.tools.call_arguments import read_arguments
from plugin_runtime.tools.output_files import OutputFiles
from plugin_runtime.tools.refusals import Refusal, Refused
from plugin_runtime.tools.uploads import UploadFolder, safe_run_id
from plugin_runtime.worker.answers import JSON, refusal_body, send_file, send_retained
from plugin_runtime.worker.calls import Call, answer_call
from plugin_runtime.worker.execution import ToolExecution

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from plugin_runtime.http.head import RequestHead
    from plugin_runtime.shared.environment import Environment
    from plugin_runtime.startup.failures import Failure
    from plugin_runtime.tools.scratch import Scratch
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.worker.batching import Batches
    from plugin_runtime.worker.runs import Run, RunTable
    from plugin_runtime.worker.threads import AuthorThreads

REFUSAL_SECONDS = 1.0
ALIVE = response_head(200, JSON, 2, keep_alive=True) + b"{}"


class ToolService:
    """`oom_kills` is called before every answer, which carries the number; `advice` returns what is to be added to the
    message of a tool's error; `gpu_loss` the lost GPU that led to one.
    """

    # A helper process of the tool that was killed may have spoilt its result.

    def __init__(
        self,
        environment: Environment,
        tools: Mapping[str, Tool],
        runs: RunTable,
        oom_kills: Callable[[], int],
        *,
        scratch: Scratch,
        advice: Callable[[BaseException], str],
        gpu_loss: Callable[[BaseException], Failure | None],
        threads: AuthorThreads,
        batches: Mapping[str, Batches],
    ) -> None:
        self._advice = advice
        self._gpu_loss = gpu_loss
        self._threads = threads
        self._tools = tools
        self._batches = batches
        self._runs = runs
        self._scratch = scratch
        self._max_result = environment.max_result
        self._max_output = environment.max_output
        self._oom_kills = oom_kills
        self._has_gpu = environment.requires_gpu

    def serve(self, peer: socket.socket) -> None:
        """Serve one connection until either side ends it."""
        connection = HttpServerConnection(peer)
        close = connection.close_lingering
        try:
            while self._serve_request(connection):
                # Where calls wait for each other, none may wait in an author's thread.
                if (
                    connection.called
                    and not self._batches
                    and not self._threads.attend(connection, self._serve_request)
                ):
                    break
        except Disconnected:
            close = connection.close  # nobody reads an answer, and the caller may wait for the end
        except BadHead as error:
            self._refuse(connection, Refusal("bad_request", str(error), "BadRequest"), keep_alive=False)
        except Exception:  # noqa: BLE001 - a connection that closes without an answer looks like a dead worker
            write_log(f"a defect of the runtime\n{traceback.format_exc()}")
            text = "a defect of the runtime; the container's log has its traceback"
            self._refuse(connection, Refusal("defect", text, "RuntimeDefect"), keep_alive=False)
        finally:
            connection.answer_taken()
            close()

    def refuse_for_want_of_threads(self, peer: socket.socket, error: RuntimeError) -> None:
        """Answer the first request of a connection that no thread can serve, whatever it is, and close it."""
        # An answer names the limit; a connection that is closed without one looks like a dead worker.
        refusal = Refusal("exception", f"{error}{self._advice(error)}", type(error).__name__, "")
        peer.settimeout(REFUSAL_SECONDS)
        connection = HttpServerConnection(peer)
        with contextlib.suppress(Disconnected, BadHead):
            if connection.read_head() is not None:
                self._refuse(connection, refusal, keep_alive=False)
        peer.close()

    def _serve_request(self, connection: HttpServerConnection) -> bool:
        """False where the connection is over."""
        head = connection.read_head()
        connection.answer_taken()
        if head is None:
            return False
        if head.path == LIVENESS_PATH:  # first, since in an idle container nothing else is requested
            connection.called = False
            connection.send(ALIVE)
            return head.keep_alive
        connection.called = not head.path.startswith("/runs/")
        self._runs.request_came(connection)
        try:
            return self._answer(connection, head)
        finally:
            self._runs.request_answered(connection)

    def _answer(self, connection: HttpServerConnection, head: RequestHead) -> bool:
        """False where the connection is over."""
        refusal = None
        try:
            if connection.called:
                refusal = self._call(connection, head)
            else:
                self._answer_about_run(connection, head)
        except Refused as refused:
            refusal = refused.refusal
        keep_alive = head.keep_alive and not connection.has_unread_body
        if refusal is not None:
            self._refuse(connection, refusal, keep_alive=keep_alive)
        return keep_alive

    def _call(self, connection: HttpServerConnection, head: RequestHead) -> Refusal | None:
        """None where the answer was sent."""
        run = self._runs.add(
            safe_run_id(head.headers.get("x-run-id", "")),
            OutputFiles(str(self._scratch.folder), self._max_output),
            retain=head.headers.get("x-run-keep", "") == "1",
        )
        call = Call(
            connection,
            head,
            run,
            self._runs,
            ToolExecution(),
            self._max_result,
            str(self._scratch.folder),
            self._oom_kills,
            self._advice,
            self._has_gpu,
            self._gpu_loss,
        )
        try:
            return self._run(call)
        except Refused as refused:
            return call.refused(refused.refusal)
        finally:
            self._runs.finish(run)
            if run.files:
                connection.on_answer_taken = partial(self._runs.release, run)

    def _run(self, call: Call) -> Refusal | None:
        """Raises Refused before the tool's code runs."""
        tool = self._find_tool(call.head)
        if tool.batch is not None:
            with ExitStack() as uploads:
                folder = uploads.enter_context(UploadFolder(self._scratch, call.run.run_id))
                arguments = read_arguments(tool, call.head, call.connection.read_body(call.head), folder)
                return self._batches[tool.name].answer(call, arguments, uploads)
        with UploadFolder(self._scratch, call.run.run_id) as folder:
            arguments = read_arguments(tool, call.head, call.connection.read_body(call.head), folder)
            # In one hand-over to and fro: it executes the tool, and encodes and sends the answer.
            refusal: Refusal | None = self._threads.run(answer_call, call, tool, arguments)
            return refusal

    def _find_tool(self, head: RequestHead) -> Tool:
        name = unquote(head.path.removeprefix("/tools/"))
        tool = self._tools.get(name)
        if head.method != "POST" or tool is None or not head.path.startswith("/tools/"):
            known = ", ".join(self._tools) or "none"
            raise Refused(
                "unknown_tool", f"no tool at {head.method} {head.path}; POST /tools/<name> runs a tool: {known}"
            )
        return tool

    def _answer_about_run(self, connection: HttpServerConnection, head: RequestHead) -> None:
        """Wait for a run's answer, give a file of it, cancel the run, or discard its answer. Raises Refused."""
        for _ in connection.read_body(head):
            pass  # it means nothing here
        run_id, slash, action = head.path.removeprefix("/runs/").partition("/")
        request = f"{head.method} {slash}{action}"
        run = self._runs.find(run_id)
        if request.startswith("GET /files/") and run is not None:
            self._send_file(connection, run, unquote(action.removeprefix("files/")), keep_alive=head.keep_alive)
            return
        if request not in {"GET ", "DELETE ", "POST /cancel"} or run is None:
            known = "GET and DELETE /runs/<run id>, GET /runs/<run id>/files/<name>, POST /runs/<run id>/cancel"
            raise Refused(
                "unknown_run", f"no run at {head.method} {head.path}; there are {known}, for runs in flight or retained"
            )
        if request == "GET ":
            self._runs.wait(run)
            if run.answer is None:
                raise Refused("not_kept", f"the run {run_id} has ended, and its answer was not retained")
            send_retained(connection, run.answer, keep_alive=head.keep_alive)
            return
        status = 200
        if request == "DELETE ":
            self._runs.discard(run)
        elif not run.ended:
            run.cancellation.request()
            status = 202
        body = msgspec.json.encode({"run_id": run_id, "ended": run.ended})
        connection.send(response_head(status, JSON, len(body), keep_alive=head.keep_alive) + body)

    def _send_file(self, connection: HttpServerConnection, run: Run, name: str, *, keep_alive: bool) -> None:
        file = run.files.find(unquote(name))
        if file is None:
            raise Refused("unknown_file", f"the run {run.run_id} has no file of this name")
        try:
            send_file(connection, file, keep_alive=keep_alive)
        except OSError as error:
            write_log(f"the file {file.name} of run {run.run_id} cannot be read: {error}\n")
            raise Disconnected from error

    def _refuse(self, connection: HttpServerConnection, refusal: Refusal, *, keep_alive: bool) -> None:
        body = refusal_body(refusal)
        try:
            head = response_head(refusal.status, JSON, len(body), keep_alive=keep_alive, oom_kills=self._oom_kills())
            connection.send(head + body)
        except Disconnected:
            return
