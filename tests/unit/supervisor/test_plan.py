"""The plan of one plugin's instances, over random histories: what commands ask for, and what becomes of instances."""

import random
from dataclasses import dataclass, field, replace
from math import inf

import pytest
from msgspec.structs import replace as changed

from orchestrator.supervisor.plan import (
    Action,
    Begin,
    Drain,
    End,
    Forget,
    Member,
    Phase,
    Return,
    Wanted,
    least_loaded,
    next_deadline,
    plan,
)

READY, STARTING, ENDED, REMOVED = Phase.READY, Phase.STARTING, Phase.ENDED, Phase.REMOVED


@dataclass
class World:
    """A plugin's instances as random events leave them; carries out each plan."""

    random: random.Random
    wanted: Wanted = field(default_factory=lambda: Wanted(1, 1))
    members: list[Member] = field(default_factory=list)
    now: float = 0.0
    generation: int = 0
    begun: int = 0
    commanded: int = 1

    def settle(self) -> None:
        """Carry out what the plan says, until it says nothing."""
        for _ in range(1000):
            actions = plan(self.wanted, self.members, self.now)
            if not actions:
                return
            for action in actions:
                self._carry_out(action)
        raise AssertionError("the plan never ends")

    def _carry_out(self, action: Action) -> None:
        match action:
            case Begin():
                assert self.wanted.owed > 0, "an instance that no command asked for"
                assert not any(member.phase is ENDED for member in self.members)
                self.generation += 1
                self.begun += 1
                self.wanted = replace(self.wanted, owed=self.wanted.owed - 1)
                self.members.append(Member(self.generation, STARTING))
            case Return(generation):
                assert self.wanted.owed > 0, "an instance that no command asked for"
                assert self._of(generation).alive
                self.wanted = replace(self.wanted, owed=self.wanted.owed - 1)
                self._change(generation, role="serving", drain_until=inf)
                self.begun += 1
            case Drain(generation, until):
                assert self._of(generation).serves
                self._change(generation, role="draining", drain_until=until)
            case End(generation):
                member = self._of(generation)
                assert member.role == "draining"
                assert member.in_flight == 0 or self.now >= member.drain_until, "runs were cut short"
                self._change(generation, phase=ENDED, in_flight=0)
            case Forget(generation):
                assert self._of(generation).phase is REMOVED
                self.members = [member for member in self.members if member.generation != generation]

    def happen(self) -> None:
        """Something random: an instance's step, a run, a command, time."""
        member = self.random.choice(self.members) if self.members else None
        what = self.random.randrange(8)
        if what == 0 and member is not None and member.phase is STARTING:
            self._change(member.generation, phase=READY)
        elif what == 1 and member is not None and member.alive:
            self._change(member.generation, phase=ENDED, in_flight=0)
        elif what == 2 and member is not None and member.phase is ENDED:
            self._change(member.generation, phase=REMOVED)
        elif what == 3 and (free := least_loaded(self.members, 2)) is not None:
            assert self._of(free).serves
            self._change(free, in_flight=self._of(free).in_flight + 1)
        elif what == 4 and member is not None and member.in_flight:
            self._change(member.generation, in_flight=member.in_flight - 1)
        elif what == 5:
            self.now += self.random.choice((0.1, 5.0, 61.0))
        elif what == 6:
            self.command(self.random.randint(1, 5), start=self.random.random() < 0.5)
        self.settle()

    def command(self, replicas: int, *, start: bool) -> None:
        """Scale, or start those that are missing."""
        owed = max(0, replicas - len(self.serving)) if start or self.serving else 0
        self.commanded += owed
        self.wanted = replace(self.wanted, replicas=replicas, owed=owed)

    @property
    def serving(self) -> list[Member]:
        return [member for member in self.members if member.serves]

    def _of(self, generation: int) -> Member:
        return next(member for member in self.members if member.generation == generation)

    def _change(self, generation: int, **changes: object) -> None:
        self.members = [changed(m, **changes) if m.generation == generation else m for m in self.members]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
def test_random_histories(seed: int) -> None:
    """No more serve than wanted, none begins without a command, none is ended while its runs have time."""
    world = World(random.Random(seed))
    world.settle()
    for _ in range(500):
        world.happen()
        assert len(world.serving) <= world.wanted.replicas
        assert world.begun <= world.commanded
        # One that serves no longer is drained within its time, and nothing is waited for that was reached.
        deadline = next_deadline(world.members)
        assert deadline is None or deadline > world.now
        assert len([member for member in world.members if member.phase is REMOVED]) <= 5 + world.wanted.replicas


def members(*phases: Phase, **more: object) -> list[Member]:
    return [Member(generation, phase, **more) for generation, phase in enumerate(phases, 1)]  # type: ignore[arg-type]


def test_as_many_as_wanted_begin_at_once() -> None:
    assert plan(Wanted(3, 3), [], 0) == (Begin(), Begin(), Begin())


def test_nothing_begins_by_itself() -> None:
    """An instance that ended is replaced by a command alone."""
    assert plan(Wanted(3), members(READY, REMOVED, READY), 0) == ()


def test_new_ones_wait_until_the_old_ones_have_released_what_they_had() -> None:
    assert plan(Wanted(2, 1), members(READY, ENDED), 0) == ()
    assert plan(Wanted(2, 1), members(READY, REMOVED), 0) == (Begin(),)


def test_one_that_failed_is_forgotten_when_the_set_is_whole_again() -> None:
    assert plan(Wanted(2), members(READY, REMOVED, READY), 0) == (Forget(2),)


def test_the_last_one_that_failed_is_not_forgotten() -> None:
    """It says why the plugin is not there."""
    assert plan(Wanted(1), members(REMOVED), 0) == ()


def test_those_leave_first_that_nobody_misses() -> None:
    """One that still starts, then the least busy, then the newest."""
    busy = [Member(1, READY, in_flight=1), Member(2, READY), Member(3, READY), Member(4, STARTING)]
    assert [each.generation for each in plan(Wanted(1, drain=60), busy, 5) if isinstance(each, Drain)] == [4, 3, 2]
    assert plan(Wanted(3, drain=60), busy, 5) == (Drain(4, 65),)


def test_a_drained_instance_ends_with_its_last_run_or_with_its_time() -> None:
    draining = Member(2, READY, "draining", in_flight=1, drain_until=60)
    assert plan(Wanted(1), [Member(1, READY), draining], 59) == ()
    assert plan(Wanted(1), [Member(1, READY), changed(draining, in_flight=0)], 10) == (End(2),)
    assert plan(Wanted(1), [Member(1, READY), draining], 60) == (End(2),)


def test_the_next_run_goes_to_the_least_loaded() -> None:
    """Among equals to the oldest; never to one that starts, is full, drains or has ended."""
    assert least_loaded([Member(1, READY, in_flight=1), Member(2, READY), Member(3, READY)], 2) == 2
    assert least_loaded([Member(1, READY, in_flight=2), Member(2, STARTING), Member(3, READY, "draining")], 2) is None


def test_the_next_deadline_is_the_earliest_of_those_that_drain() -> None:
    assert next_deadline(members(READY, READY)) is None
    drained = [Member(1, READY, "draining", 1, 9.0), Member(2, READY, "draining", 1, 7.0), Member(3, READY)]
    assert next_deadline(drained) == 7.0
    assert Member(1, READY).drain_until == inf


def test_of_equally_loaded_ones_the_one_used_last_takes_the_next_run() -> None:
    """So that the others are idle, and can be parked."""
    used = [Member(1, READY, used_at=5.0), Member(2, READY, used_at=9.0), Member(3, READY)]
    assert least_loaded(used, 2) == 2
    assert least_loaded([*used[:1], changed(used[1], in_flight=1)], 2) == 1


def test_one_that_makes_room_takes_the_runs_that_waited_and_is_not_returned() -> None:
    """Another plugin has been promised its GPUs."""
    closing = Member(1, READY, "draining", in_flight=1, last_runs=2)
    assert least_loaded([closing], 2) == 1
    assert least_loaded([changed(closing, last_runs=0)], 2) is None
    assert plan(Wanted(1, 0), [closing], 0.0) == ()
    assert plan(Wanted(1, 0), [changed(closing, in_flight=0)], 0.0) == ()
    assert plan(Wanted(1, 0), [changed(closing, in_flight=0, last_runs=0)], 0.0) == (End(1),)
    assert plan(Wanted(1, 1), [closing], 0.0) == (Begin(),)
