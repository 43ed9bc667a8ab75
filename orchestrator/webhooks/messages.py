"""Messages: which writes of the history webhooks are sent, and what they say. Pure, but for what an outbox calls."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry.history.records import NewDelivery, RunRecord, RunState
from orchestrator.registry.history.writes import EventWrite, RunWrite, Write
from orchestrator.registry.records import LifecycleEvent
from orchestrator.webhooks.config import EventType, Webhook

TEST: Final = "webhook.test"
_MAX_REASON: Final = 4000  # characters: receivers refuse long bodies


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent of one event. `data` is of JSON's types."""

    type: EventType
    plugin: str
    happened_at: datetime
    data: Mapping[str, Any]


def messages_of(write: Write) -> tuple[Message, ...]:
    """Those of a write."""
    match write:
        case RunWrite():
            state = write.state or write.run.state
            return () if state is RunState.IN_FLIGHT else (_run_finished(write.run, state),)
        case EventWrite():
            event = write.event
            types: list[EventType] = []
            if _plugin_failed(event):
                types.append("plugin.failed")
            if event.degraded:
                types.append("plugin.degraded")
            return tuple(Message(each, event.plugin, event.time, _event_data(event)) for each in types)
        case _:
            return ()


def _plugin_failed(event: LifecycleEvent) -> bool:
    """Whether the plugin as a whole has become FAILED. A container that cannot be ended is a message of its own."""
    failed = PluginLifecycleState.FAILED
    new = event.previous is not failed or event.reason_code is ReasonCode.KILL_FAILED
    return event.state is failed and event.plugin_state is failed and new


def _run_finished(run: RunRecord, state: RunState) -> Message:
    data = {
        "run_id": run.run_id,
        "plugin": run.plugin,
        "tool": run.tool,
        "caller": run.caller,
        "state": state.value,
        "outcome": run.outcome or state.value,
        "reason_code": run.reason_code,
        "generation": run.generation or None,
        "asynchronous": run.asynchronous,
        "accepted_at": _text(run.accepted_at),
        "started_at": _text(run.started_at),
        "finished_at": _text(run.finished_at),
        "execution_time_ms": run.execution_ms,
    }
    # An interrupted run has no end that anybody saw.
    return Message("run.finished", run.plugin, run.finished_at or datetime.now(UTC), data)


def _event_data(event: LifecycleEvent) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "plugin": event.plugin,
        "generation": event.generation,
        "state": event.state.value,
        "plugin_state": event.plugin_state and event.plugin_state.value,
        "reason_code": event.reason_code and event.reason_code.value,
        "reason": event.reason and event.reason[:_MAX_REASON],
        "caller": event.caller,
    }


def body_of(kind: str, happened_at: datetime, data: Mapping[str, Any]) -> str:
    """The JSON text that is sent."""
    content = {"type": kind, "timestamp": _text(happened_at), "data": data}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


class WebhookOutbox:
    """What the history stores for webhooks with its writes."""

    def __init__(self, webhooks: Sequence[Webhook]) -> None:
        self._webhooks = tuple(webhooks)
        self.on_stored: Callable[[], None] = lambda: None
        """Called from the history's thread when there are new deliveries."""

    def deliveries(self, write: Write) -> Sequence[NewDelivery]:
        found = []
        for message in messages_of(write):
            wanting = [each for each in self._webhooks if each.wants(message.type, message.plugin)]
            if wanting:
                body = body_of(message.type, message.happened_at, message.data)
                found += [NewDelivery(each.name, message.plugin, message.type, body) for each in wanting]
        return found

    def stored(self) -> None:
        self.on_stored()
