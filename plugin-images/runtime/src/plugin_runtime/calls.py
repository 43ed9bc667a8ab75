"""One call of a tool: run it, and answer with what it returns, what it yields, or what it raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from plugin_runtime.answers import JSON, Collection, end_event, kept, log, refusal_body
from plugin_runtime.authoring import Progress
from plugin_runtime.execution import Outcome, Steps, Stopwatch, refusal_of
from plugin_runtime.http_head import RequestHead, chunk, response_head
from plugin_runtime.refusals import Refusal, Refused
from plugin_runtime.results import encode_result
from plugin_runtime.wire import Disconnected, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.runs import Run, RunBook
    from plugin_runtime.toolset import Tool

LINES = "application/x-ndjson"
END = (StopIteration, StopAsyncIteration)
CANCELLED = Refused("cancelled", "the run was cancelled").refusal


class Call(NamedTuple):
    """What the answer to one request needs."""

    wire: Wire
    head: RequestHead
    run: Run
    book: RunBook
    watch: Stopwatch
    max_result: int
    scratch: str
    oom_kills: Callable[[], int]

    def refusal_of(self, tool: Tool, error: BaseException) -> Refusal:
        """What the caller is told; the container's log gets the traceback."""
        if self.run.cancellation.explains(error):
            return CANCELLED
        refusal = refusal_of(error)
        if refusal.traceback is not None:
            log(f"run {self.run.run_id}: tool {tool.name} raised {refusal.error_type}\n{refusal.traceback}")
        return refusal

    def refused(self, refusal: Refusal) -> Refusal:
        """The run has ended so."""
        answer = None
        if self.run.keep:
            answer = kept(self.scratch, refusal.status, refusal_body(refusal), self.oom_kills())
        self.book.close(self.run, answer)
        return refusal


def answer_call(call: Call, tool: Tool, arguments: dict[str, Any]) -> Refusal | None:
    """None where the answer was sent. Raises Refused for a result that is none."""
    if not tool.streaming:
        with call.book.executing(call.run, tool.name):
            outcome = call.watch.run(tool.call, arguments)
        return _answer(call, tool, outcome)
    with call.book.executing(call.run, tool.name):
        stream = _Stream(call, tool)
        refusal, begun = stream.run(arguments)
    if not begun and refusal is not None:
        return call.refused(refusal)
    stream.finish(refusal)
    return None


def _answer(call: Call, tool: Tool, outcome: Outcome) -> Refusal | None:
    if outcome.error is not None or call.run.cancellation.told:
        return call.refused(CANCELLED if outcome.error is None else call.refusal_of(tool, outcome.error))
    encoded = encode_result(outcome.value, call.max_result)
    body = b'{"ok":true,"result":%b,"execution_time_ms":%b}' % (encoded, str(call.watch.milliseconds).encode())
    kills = call.oom_kills()
    call.book.close(call.run, kept(call.scratch, 200, body, kills) if call.run.keep else None)
    call.wire.send(response_head(200, JSON, len(body), keep_alive=call.head.keep_alive, oom_kills=kills) + body)
    return None


class _Stream:
    """A generator tool on its way. Where the answer is kept it goes on without its caller."""

    def __init__(self, call: Call, tool: Tool) -> None:
        self._call = call
        self._tool = tool
        self._pending = response_head(200, LINES, None, keep_alive=call.head.keep_alive)
        self._collected = Collection(call.scratch, call.max_result) if call.run.keep else None
        self._left: Disconnected | None = None
        self._items = 0

    def run(self, arguments: dict[str, Any]) -> tuple[Refusal | None, bool]:
        """How it ended, and whether that belongs into the stream: what is refused before the first event is told
        plainly. Raises Disconnected where nobody wants it any more.
        """
        call = self._call
        made = call.watch.run(self._tool.call, arguments)
        if made.error is not None:
            return call.refusal_of(self._tool, made.error), False
        steps = Steps(made.value)
        outcome = call.watch.run(steps.next, {})
        if outcome.error is not None and refusal_of(outcome.error).kind == "invalid_input":
            return call.refusal_of(self._tool, outcome.error), False
        try:
            while outcome.error is None and not call.run.cancellation.asked:
                self._send(outcome.value)
                outcome = call.watch.run(steps.next, {})
        except Refused as refused:
            steps.close()
            return refused.refusal, True
        except Disconnected:
            steps.close()
            raise
        if outcome.error is None:
            steps.close()
            return CANCELLED, True
        ended = isinstance(outcome.error, END) and not call.run.cancellation.told
        return None if ended else call.refusal_of(self._tool, outcome.error), True

    def finish(self, refusal: Refusal | None) -> None:
        """Keep what is to be kept, and send the end. Raises Disconnected."""
        call = self._call
        kills = call.oom_kills()
        if self._collected is None:
            call.book.close(call.run)
        else:
            answer = self._collected.answer(call.watch.milliseconds, kills) if refusal is None else None
            problem = refusal or self._collected.problem
            call.refused(problem) if problem else call.book.close(call.run, answer)
        if self._left is not None:
            raise self._left
        end = end_event(refusal, self._items, call.watch.milliseconds, kills)
        call.wire.send(self._pending + chunk(end) + chunk(b""))

    def _send(self, value: Any) -> None:
        """Raises Refused for what is no JSON, and Disconnected where that is the end."""
        if isinstance(value, Progress):
            event = {"event": "progress", "fraction": value.fraction, "message": value.message}
            line = encode_result(event, self._call.max_result, "the progress") + b"\n"
        else:
            encoded = encode_result(value, self._call.max_result, "the item")
            line = b'{"event":"item","data":%b}\n' % encoded
            self._items += 1
        if self._collected is not None:
            if isinstance(value, Progress):
                self._collected.progress = value
            else:
                self._collected.add(encoded)
        self._pass_on(line)

    def _pass_on(self, line: bytes) -> None:
        if self._left is None:
            try:
                self._call.wire.send(self._pending + chunk(line))
            except Disconnected as left:
                if not self._call.run.keep:
                    raise
                self._left = left
            self._pending = b""
        if self._left is not None and self._collected is not None and self._collected.problem is not None:
            raise Refused(self._collected.problem.kind, self._collected.problem.error)
