"""With one instance at a time a plugin's record and events are what they were before there could be several."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.errors import StaleGenerationError, TransitionError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, PluginRecord, PluginRegistry, PostMortem
from orchestrator.registry.history import Counters, Restored

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CODES = [ReasonCode.OUT_OF_MEMORY, ReasonCode.GPU_LOST, ReasonCode.KILL_FAILED, ReasonCode.STOPPED]
NEXT = {"LOADED": {"INITIALIZED"}, "INITIALIZED": {"RUNNING"}, "RUNNING": {"RUNNING"}}
OPERATIONS = ["renew", "renew as", "ready", "run", "end run", "end", "amend", "facts", "queue", "remove", "note"]
STEPS = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9)), min_size=10, max_size=60)


class OneInstance:
    """The registry's rules for one plugin with one instance: its fields, in place, and its events."""

    def __init__(self, earlier: int, *, adopted: bool) -> None:
        self.earlier = earlier
        self.events: list[tuple[Any, ...]] = []
        self.fields: dict[str, Any] = {"success_count": 0, "error_count": 0, "total_execution_ms": 0.0}
        self.register(earlier)
        if adopted:
            self.fields["state"] = "RUNNING"
            self.event(None, reason="adopted: an earlier orchestrator started it")

    def register(self, generation: int) -> None:
        counters = {key: self.fields[key] for key in ("success_count", "error_count", "total_execution_ms")}
        self.fields = {
            **counters,
            "state": "LOADED",
            "generation": generation,
            "version": "1",
            "description": "Reads.",
            "tools": (),
            "queued": 0,
            "stale": False,
            "limits": None,
        }
        self._clear()

    def _clear(self) -> None:
        names = ("reason_code", "reason", "ready_tick", "ended_tick", "container", "post_mortem")
        self.fields.update(dict.fromkeys(names), in_flight=0, checks=(), gpus=(), unlimited=())

    def event(self, previous: str | None, **said: Any) -> None:
        fields = {**self.fields, **said}
        self.events.append((previous, *(fields[name] for name in ("state", "generation", "reason_code", "reason"))))

    @property
    def ended(self) -> bool:
        return self.fields["state"] in ("FAILED", "UNAVAILABLE")

    def renew(self, **manifest: Any) -> None:
        previous = self.fields["state"] if self.fields["generation"] > self.earlier else None
        self._clear()
        self.fields.update(state="LOADED", generation=self.fields["generation"] + 1, **manifest)
        self.event(previous)

    def to(self, state: str, **fields: Any) -> None:
        if self.ended or (state not in NEXT[self.fields["state"]] and state not in ("FAILED", "UNAVAILABLE")):
            raise TransitionError
        previous = self.fields["state"]
        self.fields.update(state=state, **fields)
        if state != previous:
            self.event(previous)

    def amend(self, code: ReasonCode, reason: str) -> None:
        restores = self.fields["reason_code"] == "KILL_FAILED"
        if self.fields["state"] != "FAILED" or (code.final_state != "FAILED" and not restores):
            raise TransitionError
        self.fields.update(state=code.final_state, reason_code=code, reason=reason)
        self.event("FAILED")


class Both:
    """Plays each step on the registry and on the reference."""

    def __init__(self, earlier: int, *, adopted: bool) -> None:
        self.now = 0.0
        restored = Restored(counters={"reader": Counters(generation=earlier)} if earlier else {})
        self.registry = PluginRegistry(restored=restored, clock=lambda: START, ticks=self._tick)
        self.reference = OneInstance(earlier, adopted=adopted)
        self.runs: list[int] = []
        """Generations of the runs that are under way."""
        self.oldest = earlier + (not adopted)
        """The first generation that there can be news of: before the first start there is no instance."""
        self._register(**({"state": PluginLifecycleState.RUNNING, "generation": earlier} if adopted else {}))

    def _register(self, **facts: Any) -> None:
        loaded = PluginRecord("reader", "1", "Reads.", PluginLifecycleState.LOADED, START)
        self.registry.register(replace(loaded, **facts))

    def _tick(self) -> float:
        self.now += 1
        return self.now

    def play(self, operation: str, how: int) -> None:
        registry, reference, fields = self.registry, self.reference, self.reference.fields
        # Of the newest, or news of one that was replaced.
        generation = fields["generation"] - (how == 0)
        code, reason = CODES[how % len(CODES)], f"Reason {how}."
        facts = {
            "checks": (Check("memory", ok=how > 4, detail=str(how), source="host"),),
            "container": ContainerFacts("c", f"reader-{how}", None),
            "gpus": ({"uuid": f"GPU-{how}"},),
            "unlimited": ("pids",),
            "tools": ({"name": f"tool-{how}"},),
            "post_mortem": PostMortem(START, exit_code=how),
        }
        match operation:
            case "renew":
                reference.renew()
                assert registry.renew("reader") == fields["generation"]
            case "renew as":
                manifest = {"version": str(how), "description": "Reads more.", "limits": None, "tools": ()}
                reference.renew(**manifest)
                registry.renew("reader", **manifest)  # type: ignore[arg-type]
            case "ready":
                self._same(
                    generation,
                    lambda: registry.mark_initialized("reader", generation),
                    lambda: reference.to("INITIALIZED", ready_tick=self.now),
                )
            case "run":
                self._same(
                    generation,
                    lambda: registry.begin_run("reader", generation),
                    lambda: reference.to("RUNNING", in_flight=fields["in_flight"] + 1),
                    lambda: self.runs.append(generation),
                )
            case "end run" if self.runs:
                of, ok = self.runs.pop(how % len(self.runs)), (True, False, None)[how % 3]
                registry.finish_run("reader", of, ok=ok, execution_ms=how)
                of_this = of == fields["generation"] and of >= self.oldest  # else of before its removal
                fields["in_flight"] -= of_this and not reference.ended
                fields["success_count"] += ok is True
                fields["error_count"] += ok is False
                fields["total_execution_ms"] += 0 if ok is None else how
            case "end":
                ended = {"reason_code": code, "reason": reason, "in_flight": 0}
                self._same(
                    generation,
                    lambda: registry.mark_ended("reader", generation, code, reason),
                    lambda: reference.to(code.final_state, **ended, ended_tick=self.now),
                )
            case "amend":
                self._same(
                    generation,
                    lambda: registry.amend_failure("reader", generation, code, reason),
                    lambda: reference.amend(code, reason),
                )
            case "facts":
                chosen = dict(list(facts.items())[how % 6 :])
                self._same(
                    generation,
                    lambda: registry.update("reader", generation, **chosen),  # type: ignore[arg-type]
                    lambda: fields.update(chosen),
                )
            case "queue":
                registry.count_queued("reader", +1)
                fields["queued"] += 1
                if how:
                    registry.count_queued("reader", -1)
                    fields["queued"] -= 1
            case "remove":
                may = reference.ended and not fields["queued"]
                assert registry.remove("reader", "Its folder was removed.") is may
                if may:
                    reference.event(fields["state"], reason="Its folder was removed.")
                    reference.earlier = fields["generation"]
                    reference.register(fields["generation"])
                    self.oldest = fields["generation"] + 1
                    self._register()
            case "note":
                registry.note("reader", reason, code)
                reference.event(fields["state"], reason=reason, reason_code=code)

    def _same(self, generation: int, real: Any, expected: Any, then: Any = lambda: None) -> None:
        reference = self.reference
        current = generation == reference.fields["generation"] and generation >= self.oldest
        before = dict(reference.fields)
        if not current:
            with pytest.raises(StaleGenerationError):
                real()
            return
        try:
            self.now += 1  # as the registry's own look at the clock
            expected()
        except TransitionError:
            self.now -= 1
            assert reference.fields == before
            with pytest.raises(TransitionError):
                real()
        else:
            self.now -= 1
            real()
            then()


@pytest.mark.parametrize(("earlier", "adopted"), [(0, False), (7, False), (7, True)])
@given(steps=STEPS)
def test_one_instance_is_as_it_was(earlier: int, adopted: bool, steps: list[tuple[str, int]]) -> None:
    """Every field of before, after every step, and every event; nothing is ever degraded."""
    both = Both(earlier, adopted=adopted)
    for step in steps:
        both.play(*step)
        record = both.registry.get("reader")
        assert record is not None
        assert {name: getattr(record, name) for name in both.reference.fields} == both.reference.fields
        assert (record.degraded, record.candidate, record.wanted) == (False, None, 1)
        assert len(record.instances) <= 1
    events = both.registry.events()
    assert [(e.previous, e.state, e.generation, e.reason_code, e.reason) for e in events] == both.reference.events
