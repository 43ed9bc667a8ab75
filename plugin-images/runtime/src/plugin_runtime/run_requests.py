"""Questions about a run: wait for its answer, cancel it, forget it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plugin_runtime.answers import JSON, send_kept
from plugin_runtime.http_head import response_head
from plugin_runtime.refusals import Refused

if TYPE_CHECKING:
    from plugin_runtime.http_head import RequestHead
    from plugin_runtime.runs import RunBook
    from plugin_runtime.wire import Wire


def answer_about_run(book: RunBook, wire: Wire, head: RequestHead) -> None:
    """`/runs/{run_id}` and `/runs/{run_id}/cancel`. Raises Refused."""
    for _ in wire.body(head):
        pass  # it means nothing here
    run_id, slash, action = head.path.removeprefix("/runs/").partition("/")
    asked = f"{head.method} {slash}{action}"
    run = book.find(run_id)
    if asked not in {"GET ", "DELETE ", "POST /cancel"} or run is None:
        there_is = "there are GET and DELETE /runs/<run id> and POST /runs/<run id>/cancel, for runs in flight or kept"
        raise Refused("unknown_run", f"there is no {head.method} {head.path}; {there_is}")
    if asked == "GET ":
        book.wait(run)
        answer = run.answer
        if answer is None:
            raise Refused("not_kept", f"the run {run_id} has ended, and its answer was not kept")
        send_kept(wire, answer, keep_alive=head.keep_alive)
        return
    status = 200
    if asked == "DELETE ":
        book.forget(run)
    elif not run.ended:
        run.cancellation.ask()
        status = 202
    body = msgspec.json.encode({"run_id": run_id, "ended": run.ended})
    wire.send(response_head(status, JSON, len(body), keep_alive=head.keep_alive) + body)
