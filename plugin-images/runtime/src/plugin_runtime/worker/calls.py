"""One call of a tool: execute it, and answer with what it returns, what it yields, or what it raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from plugin_runtime.authoring import Progress
from plugin_runtime.http.connection import Disconnected, HttpServerConnection
from plugin_runtime.http.head import RequestHead, chunk, response_head
from plugin_runtime.run_context import set_trace
from plugin_runtime.shared.processes import write_log
from plugin_runtime.tools.refusals import Refusal, Refused
from plugin_runtime.tools.results import encode_item, encode_result
from plugin_runtime.worker.answers import JSON, ItemCollector, end_event, refusal_body, result_body, retained
from plugin_runtime.worker.execution import GeneratorSteps, ToolExecution, is_generator, refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.run_context import Cancellation
    from plugin_runtime.startup.failures import Failure
    from plugin_runtime.tools.awaiting import Outcome
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.worker.runs import Run, RunTable

LINES = "application/x-ndjson"
END = (StopIteration, StopAsyncIteration)
CANCELLED = Refused("cancelled", "the run was cancelled").refusal


class Call(NamedTuple):
    """What the answer to one request needs."""

    connection: HttpServerConnection
    head: RequestHead
    run: Run
    runs: RunTable
    execution: ToolExecution
    max_result: int
    scratch: str
    oom_kills: Callable[[], int]
    advice: Callable[[BaseException], str]
    has_gpu: bool
    gpu_loss: Callable[[BaseException], Failure | None]

    def refusal_of(
        self, tool: Tool, error: BaseException, *, cancellation: Cancellation | None = None, runs: str = ""
    ) -> Refusal:
        """The answer to the caller; the traceback goes to the container's log. The last two are of a batch."""
        if (cancellation or self.run.cancellation).explains(error):
            return CANCELLED
        refusal = refusal_of(error, has_gpu=self.has_gpu)
        if refusal.traceback is not None:
            loss = self.gpu_loss(error) if refusal.reason_code is None else None
            if loss is not None:
                said = f"{refusal.error_type}: {refusal.error}".partition("\n")[0]
                said = f"{loss.reason} ({tool.name} raised {said})"
                refusal = refusal._replace(error=said, reason_code=loss.code)
            else:
                refusal = refusal._replace(error=refusal.error + self.advice(error))
            runs = runs or self.run.run_id
            write_log(f"run {runs}: tool {tool.name} raised {refusal.error_type}\n{refusal.traceback}")
        return refusal

    def refused(self, refusal: Refusal) -> Refusal:
        """Finish the run with this refusal, which is returned."""
        answer = None
        if self.run.retain:
            answer = retained(self.scratch, refusal.status, refusal_body(refusal), self.oom_kills())
        self.runs.finish(self.run, answer)
        return refusal


def answer_call(call: Call, tool: Tool, arguments: dict[str, Any]) -> Refusal | None:
    """None where the answer was sent. Raises Refused for a result that is not valid. Runs the tool's code in the
    calling thread.
    """
    if call.run.cancellation.requested:
        raise Refused("cancelled", "the run was cancelled before its tool started")
    set_trace(call.head.headers)
    with call.runs.executing(tool.name, call.run, cancellation=call.run.cancellation):
        outcome = call.execution.run(tool.call, arguments)
        # Judged by what came back: a decorated generator is a plain function that returns one.
        streams = outcome.error is None and is_generator(outcome.value)
        if streams:
            stream = _Stream(call, tool)
            refusal, started = stream.run(outcome.value)
    if not streams:
        return _answer(call, tool, outcome)
    if not started and refusal is not None:
        return call.refused(refusal)
    stream.finish(refusal)
    return None


def _answer(call: Call, tool: Tool, outcome: Outcome) -> Refusal | None:
    if outcome.error is not None or call.run.cancellation.observed:
        return call.refused(CANCELLED if outcome.error is None else call.refusal_of(tool, outcome.error))
    files = call.run.files
    encoded = encode_result(outcome.value, call.max_result, files)
    send_result(call, result_body(encoded, call.execution.milliseconds, files))
    return None


def send_result(call: Call, body: bytes) -> None:
    """Retain the answer if it is to be, and send it. Raises Disconnected."""
    kills = call.oom_kills()
    # Before the answer is sent: a caller that has it must not find the run in flight.
    call.runs.finish(call.run, retained(call.scratch, 200, body, kills) if call.run.retain else None)
    call.connection.send(response_head(200, JSON, len(body), keep_alive=call.head.keep_alive, oom_kills=kills) + body)


class _Stream:
    """A generator tool and the stream of its events. If the answer is retained it goes on without its caller."""

    def __init__(self, call: Call, tool: Tool) -> None:
        self._call = call
        self._tool = tool
        self._unsent_head = response_head(200, LINES, None, keep_alive=call.head.keep_alive)
        self._items = ItemCollector(call.scratch, call.max_result) if call.run.retain else None
        self._disconnected: Disconnected | None = None
        self._item_count = 0
        call.run.files.copies = True

    def run(self, generator: Any) -> tuple[Refusal | None, bool]:
        """How it ended, and whether the stream has started: a refusal before the first event is a plain answer.

        Raises Disconnected where the caller has hung up and the answer is not retained.
        """
        call = self._call
        steps = GeneratorSteps(generator)
        outcome = call.execution.run(steps.next, {})
        if outcome.error is not None and refusal_of(outcome.error).kind == "invalid_input":
            return call.refusal_of(self._tool, outcome.error), False
        try:
            while outcome.error is None and not call.run.cancellation.requested:
                self._send(outcome.value)
                outcome = call.execution.run(steps.next, {})
        except Refused as refused:
            steps.close()
            return refused.refusal, True
        except Disconnected:
            steps.close()
            raise
        if outcome.error is None:
            steps.close()
            return CANCELLED, True
        ended = isinstance(outcome.error, END) and not call.run.cancellation.observed
        return None if ended else call.refusal_of(self._tool, outcome.error), True

    def finish(self, refusal: Refusal | None) -> None:
        """Retain the answer if it is to be, then send the end. Raises Disconnected."""
        call = self._call
        kills = call.oom_kills()
        if self._items is None:
            call.runs.finish(call.run)
        else:
            answer = self._items.answer(call.execution.milliseconds, kills, call.run.files) if refusal is None else None
            problem = refusal or self._items.problem
            call.refused(problem) if problem else call.runs.finish(call.run, answer)
        if self._disconnected is not None:
            raise self._disconnected
        end = end_event(refusal, self._item_count, call.execution.milliseconds, kills)
        call.connection.send(self._unsent_head + chunk(end) + chunk(b""))

    def _send(self, value: Any) -> None:
        """Raises Refused for what cannot be JSON, and Disconnected where that ends the run."""
        if isinstance(value, Progress):
            self._call.runs.note_progress(self._call.run, value)
            event = {"event": "progress", "fraction": value.fraction, "message": value.message}
            line = encode_result(event, self._call.max_result, what="the progress") + b"\n"
        else:
            files = self._call.run.files
            encoded = encode_item(value, self._call.max_result, files)
            new = files.new_documents()
            announced = b',"files":%b' % msgspec.json.encode(new) if new else b""
            line = b'{"event":"item","data":%b%b}\n' % (encoded, announced)
            self._item_count += 1
        if self._items is not None:
            if isinstance(value, Progress):
                self._items.progress = value
            else:
                self._items.add(encoded)
        self._send_line(line)

    def _send_line(self, line: bytes) -> None:
        if self._disconnected is None:
            try:
                self._call.connection.send(self._unsent_head + chunk(line))
            except Disconnected as disconnected:
                if not self._call.run.retain:
                    raise
                self._disconnected = disconnected
            self._unsent_head = b""
        # Once nobody reads the stream, only the list is left to go on for.
        if self._disconnected is not None and self._items is not None and self._items.problem is not None:
            raise Refused(self._items.problem.kind, self._items.problem.error)
