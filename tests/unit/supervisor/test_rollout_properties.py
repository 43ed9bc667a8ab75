"""Updates under random histories: instances die, the orchestrator is killed at any step, operators interfere."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Role
from orchestrator.supervisor.plan import End, Forget, Member, Phase
from orchestrator.supervisor.releases import PluginReleases, Release, advanced, resume, with_proposed
from orchestrator.supervisor.rollout import (
    Action,
    BeginCandidate,
    BeginFormer,
    Drain,
    Finish,
    Prove,
    Switch,
    abandoned,
    broken_off,
    built,
    left_over,
    next_action,
    recorded,
)
from orchestrator.supervisor.update import Strategy, Update, UpdateStep, proposed

START = datetime(2026, 1, 1, tzinfo=UTC)
DRAIN = timedelta(seconds=60)


def release(version: int) -> Release:
    return Release(f"content-{version}", f"sha256:{version}", {"name": "x", "version": str(version)}, "/plugins/x")


class Killed(Exception):  # noqa: N818
    """The orchestrator was, in the middle of what it did."""


@dataclass
class World:
    """A plugin's containers, what its orchestrator knows, and its file. Does what `next_action` says."""

    replicas: int
    strategy: Strategy
    state: PluginReleases
    now: datetime = START
    last_generation: int = 0
    last_version: int = 1
    kill_in: int = -1
    """Steps until the orchestrator is killed."""

    def __post_init__(self) -> None:
        self.instances: dict[int, Member] = {}
        self.killed_here = 0
        for _ in range(self.replicas):
            self.begin("serving", release(1))
        for generation in self.instances:
            self.change(generation, phase=Phase.READY)

    # What the world does

    def allotted(self) -> int:
        """A generation, which is never used again, whatever becomes of it."""
        self.last_generation = max(self.last_generation, self.state.last_generation) + 1
        return self.last_generation

    def begin(self, role: Role, of: Release, generation: int | None = None) -> None:
        number = generation or self.allotted()
        self.instances[number] = Member(number, Phase.STARTING, role, release=of.id)

    def change(self, generation: int, **changes: object) -> None:
        if generation in self.instances:
            self.instances[generation] = changed(self.instances[generation], **changes)

    def serving(self) -> list[int]:
        return [each.generation for each in self.instances.values() if each.serves]

    def end(self, generation: int, code: ReasonCode = ReasonCode.STOPPED) -> None:
        if self.instances[generation].alive:
            self.change(generation, phase=Phase.ENDED, reason_code=code, reason=f"It is {code}.", in_flight=0)

    # What the orchestrator does

    @property
    def update(self) -> Update | None:
        return self.state.update

    def write(self, state: PluginReleases) -> None:
        self.maybe_killed()
        self.state = state
        self.maybe_killed()

    def maybe_killed(self) -> None:
        self.kill_in -= 1
        if self.kill_in == 0:
            raise Killed

    def propose(self) -> None:
        """An operator's update; refused while one is under way."""
        if self.state.under_way is not None:
            return
        self.last_version += 1
        new = release(self.last_version)
        current = self.state.current
        update = proposed(f"u{self.last_version}", "x", self.now, current=current and current.name)
        self.write(with_proposed(self.state, update))
        views = list(self.instances.values())
        update = built(update, new.name, (self.strategy, "test"), views, self.now, replicas=self.replicas, drain=DRAIN)
        self.write(with_proposed(self.state, update, new))
        self.drive()

    def drive(self) -> None:
        for _ in range(100):
            update = self.update
            if update is None:
                return
            action = next_action(update, list(self.instances.values()), self.now)
            if action is None:
                return
            self.do(update, action)
        raise AssertionError("it never waits")

    def do(self, update: Update, action: Action) -> None:
        before = len(self.serving())
        begins = isinstance(action, BeginCandidate | BeginFormer)
        generation = self.allotted() if begins else None
        after = recorded(update, action, self.now, generation)
        self.write(advanced(self.state, after))
        match action:
            case BeginCandidate():
                of = self.state.named(update.to_release)
                assert of is not None
                self.check_room(update)
                self.begin("candidate", of, generation)
            case BeginFormer():
                of = self.state.named(update.from_release)
                assert of is not None
                assert update.strategy == "replace"
                self.begin("serving", of, generation)
            case Prove(generation=number):
                assert self.instances[number].phase is Phase.READY
            case Switch(generation=number, drains=drains):
                assert self.instances[number].proof is not None
                self.change(number, role="serving")
                if drains is not None:
                    self.change(drains, role="draining")
            case Drain(generation=number):
                self.change(number, role="draining")
            case End(generation=number):
                # Never before the candidate is proven, where there was room for both.
                assert update.strategy == "replace" or [each for each in update.switched if each in self.instances]
                assert self.instances[number].role == "draining"
                self.end(number)
            case Forget(generation=number):
                self.instances.pop(number, None)
            case Finish():
                self.check_finish(after, action)
        room = 1 if update.strategy == "replace" else 0
        assert len(self.serving()) >= min(before, update.replicas) - room
        self.check()
        self.maybe_killed()

    def check_room(self, update: Update) -> None:
        """What a candidate needs is free: with `replace`, the place of the instance that it replaces."""
        held = [each for each in self.instances.values() if each.phase is not Phase.REMOVED]
        if update.strategy == "replace" and [each for each in held if each.generation not in update.switched]:
            assert len(held) < update.served_before
        assert not [each for each in held if each.phase is Phase.ENDED]
        # One of the new release that ended after it had taken over stops the rollout.
        assert not {*update.switched} & {*update.candidates} - {*self.serving()}

    def check_finish(self, update: Update, action: Finish) -> None:
        if update.step is UpdateStep.REJECTED:
            assert not [each for each in update.candidates if each in self.serving()]
            assert self.state.current is not None
            assert update.from_release is not None
            assert self.state.current.id == update.from_release.id
        elif action.reason_code is None:
            assert set(self.serving()) <= set(update.switched)
            assert len(self.serving()) >= update.replicas

    def resume(self) -> None:
        """The next orchestrator: adopts what runs, removes what must not, begins what is missing."""
        self.killed_here += 1
        running = [each.generation for each in self.instances.values() if each.alive]
        before = self.update
        found = resume(self.state, running, self.now)
        assert sorted((*found.serves, *found.drains, *found.removes)) == sorted(running)
        if before is not None and before.ended:
            assert found.state.update is not None
            assert found.state.update.step is before.step
        self.state = found.state
        views = {number: self.instances[number] for number in (*found.serves, *found.drains)}
        self.instances = {
            number: changed(view, role="draining" if number in found.drains else "serving", proof=None)
            for number, view in views.items()
        }
        assert not [number for number in self.instances if number in found.removes]
        if self.state.under_way is None:
            for _ in range(self.replicas - len(self.serving())):
                assert self.state.current is not None
                self.begin("serving", self.state.current)
            for number in found.drains:  # nothing of an update waits for it
                self.end(number)
                self.instances.pop(number)
        self.check()
        self.drive()

    def break_off(self) -> None:
        """What the rollout does met a defect: it ends there."""
        update = self.state.under_way
        if update is not None:
            rest = left_over(update, list(self.instances.values()))
            self.write(advanced(self.state, broken_off(update, rest, ReasonCode.INIT_ERROR, "A defect.", self.now)))
            for number in rest.serve:
                self.change(number, role="serving")
            for number in rest.drain:
                self.change(number, role="draining")
            for number in rest.end:
                self.end(number)
        self.drive()
        for each in list(self.instances.values()):  # by `plan`
            if each.role == "draining":
                self.end(each.generation)

    def stop(self) -> None:
        """An operator's, at any time: all instances end, and the update with them. A start follows."""
        if self.state.under_way is not None:
            ended = abandoned(self.state.under_way, ReasonCode.STOPPED, "The plugin was stopped.", self.now)
            self.write(advanced(self.state, ended))
        self.instances.clear()
        for _ in range(self.replicas):
            assert self.state.current is not None
            self.begin("serving", self.state.current)

    def check(self) -> None:
        update = self.update
        before = 0 if update is None else update.served_before
        assert len(self.serving()) <= max(self.replicas, before)
        if self.replicas == 1 and before <= 1:
            assert len({self.instances[number].release for number in self.serving()}) <= 1

    # Histories

    def step(self, choice: int, pick: int) -> None:
        alive = [each for each in self.instances.values() if each.alive]
        each = alive[pick % len(alive)] if alive else None
        match choice:
            case 0:
                self.propose()
            case 1 if each is not None:
                self.end(each.generation, ReasonCode.CRASHED)
            case 2 if each is not None and each.role == "serving":
                self.change(each.generation, in_flight=each.in_flight + 1)
            case 3 if each is not None and each.in_flight:
                self.change(each.generation, in_flight=each.in_flight - 1)
            case 4:
                self.now += timedelta(seconds=pick)
            case 5:
                self.kill_in = 1 + pick % 4
            case 6 if pick % 3 == 0:
                self.stop()
            case 7 if each is not None and each.role == "candidate" and each.phase is Phase.READY:
                self.end(each.generation, ReasonCode.INVALID_OUTPUT)  # its proof failed
            case _:
                self.progress()
        self.drive()

    def progress(self) -> None:
        """What goes on by itself, one step of each."""
        for each in list(self.instances.values()):
            update = self.update
            if each.phase is Phase.STARTING:
                self.change(each.generation, phase=Phase.READY)
            elif each.phase is Phase.ENDED:
                self.change(each.generation, phase=Phase.REMOVED)
            elif each.role == "candidate" and update is not None and update.proving == each.generation:
                self.change(each.generation, proof="3 calls passed.")


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    replicas=st.integers(1, 4),
    strategy=st.sampled_from(["overlap", "replace"]),
    history=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 90)), max_size=60),
)
def test_no_history_breaks_an_update(replicas: int, strategy: Strategy, history: list[tuple[int, int]]) -> None:
    """Never: an old instance ended before a candidate is proven (overlap), two releases serving at once with one
    replica, fewer instances than before by the update's own doing, a rejected release that serves, a container that
    nobody owns. And every update ends.
    """
    world = World(replicas, strategy, PluginReleases(current=release(1)))
    for choice, pick in history:
        try:
            world.step(choice, pick)
        except Killed:
            world.resume()
    world.kill_in = -1
    for _ in range(40 * replicas):
        if world.state.under_way is None:
            break
        world.progress()
        world.now += timedelta(seconds=10)
        world.drive()
    assert world.state.under_way is None
    assert not [each for each in world.instances.values() if each.role == "candidate" and each.alive]
    assert len(world.state.updates) <= 20


@settings(max_examples=200, deadline=None)
@given(replicas=st.integers(1, 4), strategy=st.sampled_from(["overlap", "replace"]), dies=st.integers(1, 40))
def test_a_kill_at_every_step_leaves_one_generation_that_serves(replicas: int, strategy: Strategy, dies: int) -> None:
    """And the record says which: before the switch the former release, from then on the new one."""
    world = World(replicas, strategy, PluginReleases(current=release(1)))
    world.kill_in = dies
    try:
        world.propose()
        for _ in range(40):
            world.progress()
            world.drive()
    except Killed:
        world.resume()
    for _ in range(40):
        world.progress()
        world.drive()
    update = world.update
    releases = {world.instances[number].release for number in world.serving()}
    assert len(world.serving()) == replicas
    assert releases == {world.state.current.id if world.state.current else None}
    if update is not None and update.step is UpdateStep.REJECTED:
        assert releases == {release(1).id}
        assert update.reason is not None
        assert update.reason.startswith("The orchestrator ended while the update was ")
    elif update is not None:
        assert (update.step, update.reason, releases) == (UpdateStep.SETTLED, None, {release(2).id})


@settings(max_examples=200, deadline=None)
@given(replicas=st.integers(1, 4), strategy=st.sampled_from(["overlap", "replace"]), meets=st.integers(1, 60))
def test_a_defect_at_any_step_ends_the_update_and_costs_no_instance(
    replicas: int, strategy: Strategy, meets: int
) -> None:
    """Before something has switched it is REJECTED, and all are of the former release."""
    world = World(replicas, strategy, PluginReleases(current=release(1)))
    world.propose()
    world.kill_in = meets
    broke_off = False
    for _ in range(40):
        try:
            world.progress()
            world.drive()
        except Killed:
            world.break_off()
            broke_off = True
    update = world.update
    assert update is not None
    assert update.ended
    assert len(world.serving()) == replicas
    assert not [each for each in world.instances.values() if each.alive and each.role != "serving"]
    releases = {world.instances[number].release for number in world.serving()}
    if update.step is UpdateStep.REJECTED:
        assert (broke_off, releases) == (True, {release(1).id})
    elif update.reason_code is None:
        assert releases == {release(2).id}
    else:
        assert releases & {release(2).id}


@settings(max_examples=200, deadline=None)
@given(
    replicas=st.integers(1, 4),
    strategy=st.sampled_from(["overlap", "replace"]),
    failing=st.integers(1, 4),
    proof=st.booleans(),
)
def test_a_candidate_that_fails_costs_no_instance(replicas: int, strategy: Strategy, failing: int, proof: bool) -> None:
    """The first: rejected, all are of the former release. A later one: the rollout stops where it is."""
    world = World(replicas, strategy, PluginReleases(current=release(1)))
    world.propose()
    for _ in range(60):
        update = world.update
        assert update is not None
        candidate = update.candidate
        fails = len(update.candidates) == failing and (not proof or update.proving == candidate)
        if fails and candidate is not None and world.instances[candidate].alive:
            world.end(candidate, ReasonCode.OUT_OF_MEMORY)
        else:
            world.progress()
        world.drive()
    update = world.update
    assert update is not None
    new = [number for number in world.serving() if world.instances[number].release == release(2).id]
    assert len(world.serving()) == replicas
    if failing > replicas:
        assert (update.step, update.reason_code, len(new)) == (UpdateStep.SETTLED, None, replicas)
        return
    assert update.reason_code is ReasonCode.OUT_OF_MEMORY
    assert update.step is (UpdateStep.REJECTED if failing == 1 else UpdateStep.SETTLED)
    assert len(new) == failing - 1
    if failing > 1:
        counts = f"{failing - 1} of {replicas} instances are of 2, {replicas - failing + 1} of 1; these serve."
        assert update.reason is not None
        assert counts in update.reason
    # The same update again goes on with the rest.
    world.last_version -= 1
    world.propose()
    for _ in range(60):
        world.progress()
        world.drive()
    assert {world.instances[number].release for number in world.serving()} == {release(2).id}
    assert len(world.serving()) == replicas
