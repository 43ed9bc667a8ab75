"""PluginRegistry: which writes are allowed, what is read, which events are published."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from orchestrator.errors import StaleGenerationError, TransitionError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, LifecycleEvent, PluginRecord, PluginRegistry, PostMortem
from orchestrator.registry.history import Counters, Restored

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CONTAINER = ContainerFacts("c", "plugin-reader", None)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> PluginRegistry:
    """Knows the plugin `reader`, first instance, at LOADED."""
    registry = PluginRegistry(clock=clock)
    registry.register(record("reader"))
    registry.renew("reader")
    return registry


def record(name: str, **facts: object) -> PluginRecord:
    fields = {"version": "1", "description": "", "state": PluginLifecycleState.LOADED, "observed_at": START}
    return PluginRecord(name=name, **{**fields, **facts})  # type: ignore[arg-type]


def known(registry: PluginRegistry, name: str = "reader") -> PluginRecord:
    found = registry.get(name)
    assert found is not None
    return found


def test_an_instance_goes_from_loaded_over_initialized_to_running(registry: PluginRegistry) -> None:
    """The way of a healthy plugin; it stays RUNNING when the run is over."""
    states = [known(registry).state]
    registry.mark_initialized("reader", 1)
    states.append(known(registry).state)
    registry.begin_run("reader", 1)
    registry.finish_run("reader", 1, ok=True, execution_ms=5)
    states.append(known(registry).state)
    assert states == ["LOADED", "INITIALIZED", "RUNNING"]


def test_the_reason_code_decides_the_final_state(registry: PluginRegistry) -> None:
    """Code and sentence come with the state, never one without the other."""
    registry.mark_ended("reader", 1, ReasonCode.MODEL_MISSING, "weights.pt is missing")
    ended = known(registry)
    assert (ended.state, ended.reason_code, ended.reason) == ("UNAVAILABLE", "MODEL_MISSING", "weights.pt is missing")
    assert ended.ended_tick is not None


@pytest.mark.parametrize("code", [ReasonCode.TIMEOUT, ReasonCode.STOPPED])
def test_an_ended_instance_stays_ended(registry: PluginRegistry, code: ReasonCode) -> None:
    """Neither another end, nor readiness, nor a run; the first reason stays."""
    registry.mark_initialized("reader", 1)
    registry.mark_ended("reader", 1, code, "first")
    for attempt in (
        lambda: registry.mark_ended("reader", 1, ReasonCode.CRASHED, "second"),
        lambda: registry.mark_initialized("reader", 1),
        lambda: registry.begin_run("reader", 1),
    ):
        with pytest.raises(TransitionError):
            attempt()
    assert (known(registry).reason_code, known(registry).reason) == (code, "first")


def test_an_instance_that_is_not_ready_takes_no_run(registry: PluginRegistry) -> None:
    """LOADED cannot become RUNNING, and nothing is counted."""
    with pytest.raises(TransitionError):
        registry.begin_run("reader", 1)
    assert known(registry).in_flight == 0


def test_news_of_a_replaced_instance_is_refused(registry: PluginRegistry) -> None:
    """Nothing about an older generation changes the record of the newer one."""
    registry.renew("reader")
    before = known(registry)
    for attempt in (
        lambda: registry.mark_initialized("reader", 1),
        lambda: registry.mark_ended("reader", 1, ReasonCode.CRASHED, ""),
        lambda: registry.begin_run("reader", 1),
        lambda: registry.update("reader", 1, checks=(Check("x", ok=True, detail="", source="host"),)),
    ):
        with pytest.raises(StaleGenerationError):
            attempt()
    assert known(registry) == before


def test_a_restart_clears_the_instance_and_retains_the_counters(registry: PluginRegistry, clock: Clock) -> None:
    """The instance's fields are reset, the plugin's stay."""
    registry.mark_initialized("reader", 1)
    registry.begin_run("reader", 1)
    registry.finish_run("reader", 1, ok=True, execution_ms=8)
    registry.begin_run("reader", 1)
    registry.mark_ended("reader", 1, ReasonCode.CRASHED, "SIGSEGV")
    registry.update("reader", 1, container=CONTAINER, post_mortem=PostMortem(ended_at=START))
    clock.forward(5)

    assert registry.renew("reader", version="2") == 2

    new = known(registry)
    assert (new.state, new.generation, new.version) == ("LOADED", 2, "2")
    assert (new.reason, new.reason_code, new.ready_tick, new.ended_tick, new.post_mortem) == (None,) * 5
    assert (new.in_flight, new.checks, new.container) == (0, (), None)
    assert (new.success_count, new.total_execution_ms, new.last_used) == (1, 8, START)
    assert new.observed_at == clock.now


@pytest.mark.parametrize(
    ("ok", "expected"),
    [(True, (1, 0, 12.0)), (False, (0, 1, 12.0)), (None, (0, 0, None))],
    ids=["ok", "error", "neither"],
)
def test_a_run_counts_as_success_as_error_or_not_at_all(
    registry: PluginRegistry, ok: bool | None, expected: tuple[int, int, float | None]
) -> None:
    """A caller's mistake counts neither way and leaves the times alone."""
    registry.mark_initialized("reader", 1)
    registry.begin_run("reader", 1)
    registry.finish_run("reader", 1, ok=ok, execution_ms=12)
    after = known(registry)
    assert (after.success_count, after.error_count, after.last_execution_ms) == expected
    assert after.in_flight == 0


def test_a_run_that_outlives_its_instance_still_counts(registry: PluginRegistry) -> None:
    """For the plugin; the new instance's `in_flight` is not touched by it."""
    registry.mark_initialized("reader", 1)
    registry.begin_run("reader", 1)
    registry.mark_ended("reader", 1, ReasonCode.TIMEOUT, "")
    registry.renew("reader")
    registry.mark_initialized("reader", 2)
    registry.begin_run("reader", 2)

    registry.finish_run("reader", 1, ok=False, execution_ms=60)

    assert (known(registry).error_count, known(registry).in_flight) == (1, 1)


def test_the_end_of_an_instance_leaves_nothing_in_flight(registry: PluginRegistry) -> None:
    """Counted out once, not twice: `in_flight` never goes below zero."""
    registry.mark_initialized("reader", 1)
    registry.begin_run("reader", 1)
    registry.mark_ended("reader", 1, ReasonCode.CRASHED, "")
    assert known(registry).in_flight == 0
    registry.finish_run("reader", 1, ok=False, execution_ms=1)
    assert known(registry).in_flight == 0


def test_every_state_change_is_an_event(registry: PluginRegistry, clock: Clock) -> None:
    """With its time, its generation, the previous state and the reason; further runs are none."""
    clock.forward(1)
    registry.mark_initialized("reader", 1)
    for _ in range(3):
        registry.begin_run("reader", 1)
    registry.mark_ended("reader", 1, ReasonCode.CRASHED, "SIGSEGV")
    registry.renew("reader")
    events = [(e.previous, e.state, e.generation, e.reason_code) for e in registry.events(plugin="reader")]
    assert events == [
        (None, "LOADED", 1, None),
        ("LOADED", "INITIALIZED", 1, None),
        ("INITIALIZED", "RUNNING", 1, None),
        ("RUNNING", "FAILED", 1, "CRASHED"),
        ("FAILED", "LOADED", 2, None),
    ]
    assert registry.events()[1].time == START + timedelta(seconds=1)


def test_events_can_be_read_from_a_given_id_on(registry: PluginRegistry) -> None:
    """Ids grow by one over all plugins; `after` and `plugin` filter."""
    registry.register(record("writer"))
    registry.renew("writer")
    registry.mark_initialized("reader", 1)
    ids = [event.id for event in registry.events()]
    assert ids == list(range(1, 4))
    assert [e.plugin for e in registry.events(after=1)] == ["writer", "reader"]
    assert [e.id for e in registry.events(plugin="writer")] == [2]


def test_to_be_registered_is_no_event(clock: Clock) -> None:
    """A plugin's first step is its start, also after earlier ones of another orchestrator: one LOADED each."""
    registry = PluginRegistry(clock=clock, restored=Restored(counters={"reader": Counters(generation=7)}))
    registry.register(record("reader"))
    assert registry.events() == ()
    registry.renew("reader")
    assert [(e.previous, e.state, e.generation) for e in registry.events()] == [(None, "LOADED", 8)]


def test_an_adopted_instance_is_an_event(clock: Clock) -> None:
    """It goes on where it was, and the event says how it came here; the plugin's own reason is none."""
    registry = PluginRegistry(clock=clock)
    registry.register(replace(record("reader"), generation=7, state=PluginLifecycleState.RUNNING))
    assert [(e.previous, e.state, e.generation) for e in registry.events()] == [(None, "RUNNING", 7)]
    assert registry.events()[0].reason == "adopted: an earlier orchestrator started it"
    found = registry.get("reader")
    assert found is not None
    assert (found.reason, found.instances[0].reason) == (None, None)


def test_listeners_are_called_outside_the_lock(registry: PluginRegistry) -> None:
    """A listener may read and even write, and it reads the state of its event."""
    seen: list[tuple[str, bool]] = []

    def listener(event: LifecycleEvent) -> None:
        now = known(registry)
        seen.append((now.state, now.stale))
        if event.state == "INITIALIZED":
            registry.update("reader", 1, container=CONTAINER)

    end = registry.subscribe(listener)
    registry.mark_initialized("reader", 1)
    registry.begin_run("reader", 1)
    end()
    registry.mark_ended("reader", 1, ReasonCode.CRASHED, "")
    assert seen == [("INITIALIZED", False), ("RUNNING", False)]
    assert known(registry).container == CONTAINER


def test_plugins_are_listed_by_name(registry: PluginRegistry) -> None:
    """Whatever the order of their registration."""
    for name in ("zebra", "ant"):
        registry.register(record(name))
    assert [r.name for r in registry.list()] == ["ant", "reader", "zebra"]


def test_an_unknown_name_is_none(registry: PluginRegistry) -> None:
    assert registry.get("nobody") is None


def test_a_stale_record_keeps_the_time_it_was_seen(registry: PluginRegistry, clock: Clock) -> None:
    """`observed_at` changes only when the engine can be reached again."""
    clock.forward(10)
    registry.mark_stale(stale=True)
    assert (known(registry).stale, known(registry).observed_at) == (True, START)
    registry.mark_stale(stale=False)
    assert (known(registry).stale, known(registry).observed_at) == (False, clock.now)


def test_waiting_runs_are_counted_for_the_plugin(registry: PluginRegistry) -> None:
    """They go on waiting, whatever becomes of the instance."""
    registry.count_queued("reader", +1)
    registry.count_queued("reader", +1)
    registry.renew("reader")
    registry.count_queued("reader", -1)
    assert known(registry).queued == 1
