"""Several instances of one plugin: what follows for the plugin from any history of them, and the sentences for it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import StaleGenerationError, TransitionError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, InstanceRecord, LifecycleEvent, PluginRecord, PluginRegistry
from orchestrator.registry.history import Counters, Restored

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CODES = [ReasonCode.OUT_OF_MEMORY, ReasonCode.CRASHED, ReasonCode.GPU_LOST, ReasonCode.STOPPED, ReasonCode.KILL_FAILED]
LOADED, INITIALIZED, RUNNING = "LOADED", "INITIALIZED", "RUNNING"

REMEDY = "Then run `orchestrator restart reader --only failed`."


def plugin(**facts: Any) -> PluginRecord:
    return PluginRecord("reader", "1", "Reads.", PluginLifecycleState.LOADED, START, **facts)


def registry_of(
    *endings: ReasonCode | None, wanted: int = 1, ready: bool = True
) -> tuple[PluginRegistry, Callable[[], PluginRecord]]:
    """A registry whose plugin has an instance per item, ended by that code where there is one, and a look at it."""
    ticks = itertools.count()
    registry = PluginRegistry(clock=lambda: START, ticks=lambda: float(next(ticks)))
    registry.register(plugin())
    registry.set_wanted("reader", wanted)
    for number in range(1, len(endings) + 1):
        registry.renew("reader", keep=range(number))
        if ready:
            registry.mark_initialized("reader", number)
    for number, code in enumerate(endings, start=1):
        if code is not None:
            registry.mark_ended("reader", number, code, f"It ended as number {number}.")

    def look() -> PluginRecord:
        found = registry.get("reader")
        assert found is not None
        return found

    return registry, look


# Any history


@dataclass
class Known:
    """An instance, as the test believes it to be."""

    generation: int
    role: str
    state: str = LOADED
    code: str | None = None
    reason: str | None = None
    in_flight: int = 0
    readied: float = float("inf")
    ended: float = float("inf")
    label: str = ""
    """What its container and its GPU are called."""

    @property
    def alive(self) -> bool:
        return self.code is None


@dataclass
class Model:
    """The plugin, by the rules as they are written down, and without any of the code that they test."""

    instances: list[Known] = field(default_factory=list)
    highest: int = 0
    wanted: int = 1
    success: int = 0
    error: int = 0
    events: list[tuple[str | None, str, int, str | None]] = field(default_factory=list)

    def expected(self) -> dict[str, Any]:
        own = [each for each in self.instances if each.role != "candidate"]
        serving = [each for each in own if each.role == "serving"]
        alive_serving = [each for each in serving if each.alive]
        common = {
            "success_count": self.success,
            "error_count": self.error,
            "highest_generation": self.highest,
            "ready": sum(each.state in (INITIALIZED, RUNNING) for each in serving),
            "candidate": next((e.generation for e in reversed(self.instances) if e.role == "candidate"), None),
        }
        if not own:
            return {**common, "degraded": False}
        alive = alive_serving or [each for each in own if each.alive]
        if alive:
            best = next(s for s in (RUNNING, INITIALIZED, LOADED) if any(each.state == s for each in alive))
            shown = min((e for e in alive if e.state == best), key=lambda e: (e.readied, e.generation))
        else:
            ended = serving or own
            failed = [each for each in ended if each.state == "FAILED"]
            shown = min(failed or ended, key=lambda each: each.ended)
        return {
            **common,
            "state": shown.state,
            "reason_code": shown.code,
            "reason": shown.reason,
            "generation": max(each.generation for each in own),
            "in_flight": sum(each.in_flight for each in own),
            "container": shown.label or None,
            "gpus": sorted({each.label for each in (alive or [shown]) if each.label}),
            "degraded": bool(alive) and self.wanted > 1 and len(alive_serving) < self.wanted,
        }


def shown(record: PluginRecord) -> dict[str, Any]:
    names = ("success_count", "error_count", "highest_generation", "ready", "state")
    return {
        **{name: getattr(record, name) for name in (*names, "reason_code", "reason", "generation", "in_flight")},
        "degraded": record.degraded,
        "candidate": record.candidate and record.candidate.generation,
        "container": record.container and record.container.name,
        "gpus": sorted(gpu["uuid"] for gpu in record.gpus),
    }


OPERATIONS = ["renew", "begin", "ready", "run", "end run", "end", "amend", "facts", "role", "forget", "wanted", "stale"]
OFTEN = ["begin", "ready", "ready", "run", "run", "role"]
# Several instances that live take many steps.
STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS + OFTEN), st.integers(0, 5), st.integers(0, 9)), min_size=20, max_size=80
)


class History:
    """Plays steps on a registry and on the model of it, those too that the registry must refuse."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registry = PluginRegistry(clock=lambda: START, ticks=self._tick)
        self.registry.register(plugin())
        self.model = Model()

    def _tick(self) -> float:
        self.now += 1
        return self.now

    def play(self, operation: str, which: int, how: int) -> None:
        getattr(self, "_" + operation.replace(" ", "_"))(which, how)

    def _chosen(self, which: int) -> Known | None:
        return self.model.instances[which % len(self.model.instances)] if self.model.instances else None

    def _renew(self, which: int, how: int) -> None:
        """Some live on, whatever they are."""
        model = self.model
        keep = {each.generation for at, each in enumerate(model.instances) if (at + which) % 3} if how else set()
        role = "candidate" if how == 1 else "serving"
        replaced = [each for each in model.instances if each.generation not in keep and each.role != "candidate"]
        model.instances = [each for each in model.instances if each.generation in keep]
        model.highest += 1
        model.instances.append(Known(model.highest, role))
        model.events.append((replaced[-1].state if replaced else None, LOADED, model.highest, None))
        assert self.registry.renew("reader", keep=keep, role=role) == model.highest  # type: ignore[arg-type]

    def _begin(self, which: int, how: int) -> None:
        """A replica more, and all others stay."""
        model = self.model
        keep = [each.generation for each in model.instances]
        model.highest += 1
        model.instances.append(Known(model.highest, "serving"))
        model.events.append((None, LOADED, model.highest, None))
        self.registry.renew("reader", keep=keep)

    def _step(self, known: Known, allowed: tuple[str, ...], state: str, act: Callable[[], object]) -> bool:
        if known.state not in allowed:
            with pytest.raises(TransitionError):
                act()
            return False
        act()
        if known.state != state:
            self.model.events.append((known.state, state, known.generation, known.code))
        known.state = state
        return True

    def _ready(self, which: int, how: int) -> None:
        if (known := self._chosen(which)) is not None:
            act = lambda: self.registry.mark_initialized("reader", known.generation)  # noqa: E731
            if self._step(known, (LOADED,), INITIALIZED, act):
                known.readied = self.now

    def _run(self, which: int, how: int) -> None:
        if (known := self._chosen(which)) is not None:
            act = lambda: self.registry.begin_run("reader", known.generation)  # noqa: E731
            if self._step(known, (INITIALIZED, RUNNING), RUNNING, act):
                known.in_flight += 1

    def _end_run(self, which: int, how: int) -> None:
        """Of an instance that is there, or long gone."""
        known, ok = self._chosen(which), (True, False, None)[how % 3]
        if known is None or how > 7:
            known, generation = None, 99
        elif known.alive and not known.in_flight:
            return
        else:
            generation = known.generation
            known.in_flight -= known.alive
        if known is None or known.role != "candidate":
            self.model.success += ok is True
            self.model.error += ok is False
        self.registry.finish_run("reader", generation, ok=ok, execution_ms=1)

    def _end(self, which: int, how: int) -> None:
        if (known := self._chosen(which)) is not None:
            code, reason = CODES[how % len(CODES)], f"Why {known.generation}."
            act = lambda: self.registry.mark_ended("reader", known.generation, code, reason)  # noqa: E731
            before, known.code = known.code, code if known.alive else known.code
            if self._step(known, (LOADED, INITIALIZED, RUNNING), code.final_state, act):
                known.reason, known.ended, known.in_flight = reason, self.now, 0
            else:
                known.code = before

    def _amend(self, which: int, how: int) -> None:
        if (known := self._chosen(which)) is not None:
            code, reason = CODES[how % len(CODES)], f"Rather {known.generation}."
            act = lambda: self.registry.amend_failure("reader", known.generation, code, reason)  # noqa: E731
            if known.state != "FAILED" or (code.final_state != "FAILED" and known.code != "KILL_FAILED"):
                with pytest.raises(TransitionError):
                    act()
                return
            act()
            self.model.events.append((known.state, code.final_state, known.generation, code))
            known.state, known.code, known.reason = code.final_state, code, reason

    def _facts(self, which: int, how: int) -> None:
        if (known := self._chosen(which)) is not None:
            known.label = f"container-{known.generation}-{how % 2}"
            gpus = ({"uuid": known.label, "used_by_plugin_bytes": how},)
            container = ContainerFacts("c", known.label, None)
            self.registry.update("reader", known.generation, container=container, gpus=gpus)

    def _role(self, which: int, how: int) -> None:
        if (known := self._chosen(which)) is not None:
            known.role = "draining" if known.role == "serving" and how % 2 else "serving"
            self.registry.set_role("reader", known.generation, known.role)  # type: ignore[arg-type]

    def _forget(self, which: int, how: int) -> None:
        known = self._chosen(which)
        if known is None or how == 0:
            assert not self.registry.forget("reader", 99)
            return
        rest = [each for each in self.model.instances if each is not known]
        may = not known.alive and (known.role == "candidate" or any(each.role != "candidate" for each in rest))
        assert self.registry.forget("reader", known.generation) is may
        if may:
            self.model.instances = rest

    def _wanted(self, which: int, how: int) -> None:
        self.model.wanted = 1 + how % 4
        self.registry.set_wanted("reader", self.model.wanted)

    def _stale(self, which: int, how: int) -> None:
        self.registry.mark_stale(stale=how % 2 == 0)
        self.registry.mark_stale(stale=False)


def step_of(event: LifecycleEvent) -> tuple[str | None, str, int, str | None]:
    return event.previous, event.state, event.generation, event.reason_code


@given(STEPS)
def test_the_plugin_is_what_its_instances_make_of_it(steps: list[tuple[str, int, int]]) -> None:
    """After every step of any history: state, reason, counts, what is degraded, the events; and no record that was read
    before has changed.
    """
    history = History()
    before: list[tuple[PluginRecord, bytes]] = []
    for step in steps:
        history.play(*step)
        record = history.registry.get("reader")
        assert record is not None
        expected = history.model.expected()
        assert {name: value for name, value in shown(record).items() if name in expected} == expected
        assert [each.generation for each in record.instances] == [e.generation for e in history.model.instances]
        assert (record.degraded_reason is not None) is record.degraded
        before.append((record, msgspec.json.encode(record)))
    assert [step_of(event) for event in history.registry.events()] == history.model.events
    assert all(msgspec.json.encode(record) == encoded for record, encoded in before)


def test_news_of_an_instance_that_is_not_there_is_refused() -> None:
    """Forgotten, or never begun: whatever the news is, the record stays."""
    registry, look = registry_of(ReasonCode.CRASHED, None, None)
    assert registry.forget("reader", 1)
    before = look()
    for generation in (1, 4):
        for attempt in (
            lambda g=generation: registry.mark_initialized("reader", g),
            lambda g=generation: registry.mark_ended("reader", g, ReasonCode.CRASHED, ""),
            lambda g=generation: registry.amend_failure("reader", g, ReasonCode.CRASHED, ""),
            lambda g=generation: registry.begin_run("reader", g),
            lambda g=generation: registry.set_role("reader", g, "draining"),
            lambda g=generation: registry.update("reader", g, checks=()),
        ):
            with pytest.raises(StaleGenerationError):
                attempt()
        assert registry.instance("reader", generation) is None
    assert look() == before


# What the plugin shows


def test_the_longest_ready_of_the_best_instances_is_shown() -> None:
    """Its container, its checks, its uptime: one instance's, never a mixture of two."""
    registry, look = registry_of(None, None)
    for number in (1, 2):
        container = ContainerFacts("c", f"reader-{number}", None)
        registry.update("reader", number, container=container, checks=(Check(str(number), True, "", "host"),))
    first = look()
    registry.begin_run("reader", 2)
    second = look()
    registry.renew("reader", keep=(1, 2))
    registry.renew("reader", keep=(1, 2, 3))
    registry.mark_initialized("reader", 4)
    registry.mark_initialized("reader", 3)
    registry.mark_ended("reader", 1, ReasonCode.CRASHED, "")
    registry.mark_ended("reader", 2, ReasonCode.CRASHED, "")
    assert look().ready_tick == min(each.ready_tick or 0 for each in look().instances if not each.ended)
    for record, number in ((first, 1), (second, 2)):
        instance = record.instance(number)
        assert instance is not None
        assert record.container == ContainerFacts("c", f"reader-{number}", None)
        assert (record.checks[0].name, record.ready_tick) == (str(number), instance.ready_tick)


def test_gpus_are_those_of_all_that_serve_each_once() -> None:
    """What two instances use of one GPU is added up."""
    registry, look = registry_of(None, None, None)
    for number, uuid in ((1, "GPU-a"), (2, "GPU-a"), (3, "GPU-b")):
        registry.update("reader", number, gpus=({"uuid": uuid, "used_by_plugin_bytes": number},))
    assert look().gpus == (
        {"uuid": "GPU-a", "used_by_plugin_bytes": 3},
        {"uuid": "GPU-b", "used_by_plugin_bytes": 3},
    )


def test_a_candidate_shows_nowhere_but_as_the_candidate() -> None:
    """Neither its version, nor its runs, nor its end; once it serves, all of them."""
    registry, look = registry_of(None)
    before = look()
    new = registry.renew("reader", keep=(1,), role="candidate", version="2", description="Reads better.")
    registry.mark_initialized("reader", new)
    registry.begin_run("reader", new)
    registry.finish_run("reader", new, ok=False, execution_ms=5)
    registry.begin_run("reader", new)

    proven = look()
    candidate = proven.candidate
    assert candidate is not None
    assert (candidate.version, candidate.state, candidate.in_flight) == ("2", "RUNNING", 1)
    same = {"instances": before.instances, "highest_generation": 1}
    assert msgspec.structs.replace(proven, **same) == before

    registry.set_role("reader", new, "serving")
    registry.set_role("reader", 1, "draining")
    after = look()
    assert (after.version, after.description, after.generation) == ("2", "Reads better.", 2)
    assert (after.candidate, after.state, after.in_flight) == (None, "RUNNING", 1)


def test_a_failed_candidate_is_forgotten_and_its_number_is_not_used_again() -> None:
    """The plugin stays what it was."""
    registry, look = registry_of(None)
    new = registry.renew("reader", keep=(1,), role="candidate")
    registry.mark_ended("reader", new, ReasonCode.INIT_ERROR, "It raised.")
    assert (look().state, look().reason_code, look().generation) == ("INITIALIZED", None, 1)
    assert registry.forget("reader", new)
    assert registry.renew("reader", keep=(1,), role="candidate") == 3


def test_where_none_is_alive_the_first_failure_is_the_reason() -> None:
    """Before one that is merely missing something, and whichever instance is the newest."""
    _, look = registry_of(ReasonCode.GPU_LOST, ReasonCode.OUT_OF_MEMORY, ReasonCode.CRASHED, wanted=3)
    record = look()
    assert (record.state, record.reason_code) == ("FAILED", "OUT_OF_MEMORY")
    assert (record.reason, record.generation) == ("It ended as number 2.", 3)
    assert not record.degraded


@pytest.mark.parametrize("codes", [(ReasonCode.PARKED, ReasonCode.GPU_LOST), (ReasonCode.GPU_LOST, ReasonCode.PARKED)])
def test_one_that_was_parked_is_the_reason_only_where_all_are(codes: tuple[ReasonCode, ReasonCode]) -> None:
    """Else a run would start again what only an operator may."""
    _, look = registry_of(*codes, wanted=2)
    assert look().reason_code == "GPU_LOST"
    _, look = registry_of(ReasonCode.PARKED, ReasonCode.PARKED, wanted=2)
    assert look().reason_code == "PARKED"


def test_the_end_of_one_that_drained_is_not_the_plugins_reason() -> None:
    """An old instance was stopped as it should be; the new one is why nothing serves."""
    registry, look = registry_of(None, None)
    registry.set_role("reader", 1, "draining")
    registry.mark_ended("reader", 1, ReasonCode.STOPPED, "It was replaced.")
    registry.mark_ended("reader", 2, ReasonCode.GPU_LOST, "GPU 0 fell off the bus.")
    assert (look().state, look().reason_code) == ("UNAVAILABLE", "GPU_LOST")


def test_a_plugin_with_a_living_candidate_is_not_removed() -> None:
    """Though nothing serves."""
    registry, _ = registry_of(ReasonCode.STOPPED)
    new = registry.renew("reader", keep=(1,), role="candidate")
    assert not registry.remove("reader", "Its folder was removed.")
    registry.mark_ended("reader", new, ReasonCode.STOPPED, "")
    assert registry.remove("reader", "Its folder was removed.")
    registry.register(plugin())
    assert registry.renew("reader") == 3


def test_an_event_about_the_plugin_is_of_an_instance_in_its_state() -> None:
    """So the last event of the one that failed still says that it failed."""
    registry, _ = registry_of(None, ReasonCode.CRASHED)
    registry.note("reader", "The update was rejected.", ReasonCode.INIT_ERROR)
    note = registry.events()[-1]
    assert (note.generation, note.state, note.reason_code) == (1, "INITIALIZED", "INIT_ERROR")


def test_every_adopted_instance_is_an_event() -> None:
    """Each goes on where it was; the next is above all that ever were."""
    registry = PluginRegistry(clock=lambda: START, restored=Restored(counters={"reader": Counters(generation=9)}))
    instances = tuple(
        InstanceRecord(generation=number, state=PluginLifecycleState(state), observed_at=START)
        for number, state in ((7, INITIALIZED), (5, RUNNING))
    )
    registry.register(plugin(instances=instances, wanted=3))
    record = registry.get("reader")
    assert record is not None
    assert (record.state, record.generation, record.ready, record.degraded) == (RUNNING, 7, 2, True)
    assert [(e.previous, e.state, e.generation) for e in registry.events()] == [
        (None, RUNNING, 5),
        (None, INITIALIZED, 7),
    ]
    assert registry.renew("reader", keep=(5, 7)) == 10


def test_the_first_start_is_over_once_an_instance_has_ended_or_been_replaced() -> None:
    """However many instances the first start has."""
    registry, look = registry_of(None, None, None, ready=False)
    assert look().first
    registry.mark_ended("reader", 2, ReasonCode.CRASHED, "")
    assert not look().first
    registry.renew("reader")
    assert not look().first


# What is missing


@pytest.mark.parametrize(
    ("endings", "wanted", "expected"),
    [
        (
            [None, ReasonCode.OUT_OF_MEMORY, None],
            3,
            "2 of 3 instances serve: instance 2 is FAILED OUT_OF_MEMORY: It ended as number 2.",
        ),
        (
            [ReasonCode.GPU_LOST, ReasonCode.CRASHED, None, ReasonCode.CRASHED],
            4,
            (
                "1 of 4 instances serves: instance 1 is UNAVAILABLE GPU_LOST: It ended as number 1; "
                "instances 2 and 4 are FAILED CRASHED: It ended as number 2."
            ),
        ),
        ([None], 2, "1 of 2 instances serves: 1 has not been started."),
        (
            [None, ReasonCode.STOPPED],
            4,
            (
                "1 of 4 instances serves: instance 2 is UNAVAILABLE STOPPED: It ended as number 2; "
                "2 have not been started."
            ),
        ),
        # Of an earlier one, whose place has been taken since, nothing is missing
        (
            [ReasonCode.CRASHED, None, ReasonCode.GPU_LOST],
            2,
            "1 of 2 instances serves: instance 3 is UNAVAILABLE GPU_LOST: It ended as number 3.",
        ),
        ([None, None, ReasonCode.CRASHED], 2, None),
        ([None, None], 1, None),
        ([ReasonCode.CRASHED, ReasonCode.CRASHED], 2, None),
        ([], 2, None),
    ],
)
def test_degraded_says_what_is_missing_and_why(
    endings: list[ReasonCode | None], wanted: int, expected: str | None
) -> None:
    """As long as it lives; where as many serve as are wanted, or none is alive, nothing."""
    _, look = registry_of(*endings, wanted=wanted)
    remedy = f" {REMEDY}" if any(endings) else ""
    assert (look().degraded_reason, look().degraded) == (expected and expected + remedy, expected is not None)


def test_degraded_says_what_starts_and_what_drains() -> None:
    """Neither serves, and the one that starts is not missing."""
    registry, look = registry_of(None, ReasonCode.CRASHED, None, wanted=3)
    registry.set_role("reader", 1, "draining")
    assert look().degraded_reason == (
        "1 of 3 instances serves, 1 is draining: instance 2 is FAILED CRASHED: It ended as number 2; "
        f"1 has not been started. {REMEDY}"
    )
    registry.renew("reader", keep=(1, 2, 3))
    assert look().degraded_reason == (
        "1 of 3 instances serves, 1 is starting, 1 is draining: instance 2 is FAILED CRASHED: It ended as number 2. "
        f"{REMEDY}"
    )
    registry.renew("reader", keep=(1, 3, 4))
    assert look().degraded_reason is None


def test_the_sentence_stays_short_however_many_ended() -> None:
    """It has one reason of each code."""
    _, look = registry_of(None, *([ReasonCode.CRASHED] * 63), wanted=64)
    sentence = look().degraded_reason
    assert sentence is not None
    assert sentence.count("It ended") == 1
    assert len(sentence) < 400
