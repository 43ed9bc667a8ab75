"""Which writes of the history are messages, and what those say."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.lifecycle import PluginLifecycleState as State
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry.history.records import RunRecord, RunState
from orchestrator.registry.history.writes import EventWrite, FlushBarrier, PostMortemWrite, RunWrite
from orchestrator.registry.records import LifecycleEvent
from orchestrator.webhooks.config import Webhook
from orchestrator.webhooks.messages import WebhookOutbox, messages_of

AT = datetime(2026, 5, 4, 3, 2, 1, 500000, UTC)
RUN = RunRecord("r1", "ocr", "read", AT, caller="ci", finished_at=AT, outcome="ok", execution_ms=1.5, generation=3)


def event(**facts: Any) -> LifecycleEvent:
    plain = {
        "time": AT, "generation": 2, "previous": State.RUNNING, "state": State.FAILED, "plugin_state": State.FAILED,
        "reason_code": ReasonCode.CRASHED, "reason": "It died.",
    }  # fmt: skip
    return LifecycleEvent(id=7, plugin="ocr", **{**plain, **facts})


def types(event: LifecycleEvent) -> list[str]:
    return [each.type for each in messages_of(EventWrite(event))]


@pytest.mark.parametrize(
    ("write", "count"),
    [
        (RunWrite(RUN), 0),
        (RunWrite(RUN, True, RunState.FINISHED), 1),
        (RunWrite(RUN, None, RunState.INTERRUPTED), 1),
        (PostMortemWrite("ocr", 1, "{}"), 0),
        (FlushBarrier(), 0),
    ],
)
def test_a_run_is_a_message_once_it_has_ended(write: Any, count: int) -> None:
    assert len(messages_of(write)) == count


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ["plugin.failed"]),
        ({"plugin_state": State.RUNNING, "degraded": True}, ["plugin.degraded"]),
        ({"plugin_state": State.RUNNING}, []),  # a candidate's
        ({"state": State.UNAVAILABLE, "plugin_state": State.UNAVAILABLE, "reason_code": ReasonCode.STOPPED}, []),
        ({"state": State.INITIALIZED, "plugin_state": State.INITIALIZED}, []),
        ({"previous": State.FAILED}, []),  # the same failure, in other words
        ({"previous": State.FAILED, "reason_code": ReasonCode.KILL_FAILED}, ["plugin.failed"]),
        ({"plugin_state": None}, []),
        ({"state": State.UNAVAILABLE, "plugin_state": State.RUNNING, "degraded": True}, ["plugin.degraded"]),
    ],
)
def test_of_events_only_ends_that_nobody_meant(facts: dict[str, Any], expected: list[str]) -> None:
    assert types(event(**facts)) == expected


def body(write: Any, hook: Webhook) -> dict[str, Any]:
    (delivery,) = WebhookOutbox([hook]).deliveries(write)
    found: dict[str, Any] = json.loads(delivery.body)
    return found


def hook(**facts: Any) -> Webhook:
    return Webhook("pager", "http://127.0.0.1/", (b"k" * 32,), **facts)


def test_what_a_finished_run_says() -> None:
    said = body(RunWrite(RUN, True, RunState.FINISHED), hook())
    assert said == {
        "type": "run.finished",
        "timestamp": "2026-05-04T03:02:01.500000Z",
        "data": {
            "run_id": "r1", "plugin": "ocr", "tool": "read", "caller": "ci", "state": "finished", "outcome": "ok",
            "reason_code": None, "generation": 3, "asynchronous": False, "accepted_at": "2026-05-04T03:02:01.500000Z",
            "started_at": None, "finished_at": "2026-05-04T03:02:01.500000Z", "execution_time_ms": 1.5,
        },
    }  # fmt: skip


def test_what_a_failed_plugin_says() -> None:
    said = body(EventWrite(event(caller="ci", reason="x" * 9000)), hook())
    assert said["data"].pop("reason") == "x" * 4000
    assert said == {
        "type": "plugin.failed",
        "timestamp": "2026-05-04T03:02:01.500000Z",
        "data": {
            "event_id": 7, "plugin": "ocr", "generation": 2, "state": "FAILED", "plugin_state": "FAILED",
            "reason_code": "CRASHED", "caller": "ci",
        },
    }  # fmt: skip


def test_each_webhook_gets_what_it_wants() -> None:
    hooks = [
        Webhook("all", "http://127.0.0.1/", ()),
        Webhook("runs", "http://127.0.0.1/", (), events=("run.finished",)),
        Webhook("det", "http://127.0.0.1/", (), plugins=("det-*",)),
    ]
    outbox = WebhookOutbox(hooks)
    assert [each.webhook for each in outbox.deliveries(EventWrite(event()))] == ["all"]
    assert [each.webhook for each in outbox.deliveries(RunWrite(RUN, True, RunState.FINISHED))] == ["all", "runs"]
