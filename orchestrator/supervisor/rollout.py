"""Rollout: what an update does next, from its record and the plugin's instances. Pure.

`next_action` names one action, or None where something is waited for. Its owner writes what `recorded` gives to the
file first, then does it, and asks again; also whenever an instance, a run or the clock (`wakes_at`) changes something.

Replicas are replaced one by one, each by a candidate that is proven before it takes runs:

=========  =========================================================================================
overlap    begin a candidate, prove it, switch: it takes new runs, one old instance takes none; that
           one ends when its runs have, after `update.drain` at the latest; then the next
replace    drain and end one old instance, wait until it is removed and its GPU is free, begin a
           candidate, prove it, switch; then the next
=========  =========================================================================================

If a candidate fails before any has served, the update is REJECTED, and nothing is as if it had been. If a later one
fails, the rollout stops, SETTLED with its reason: whatever serves goes on to serve, new and old, and their number is
what it was. In both cases an instance that had ended to make room (`replace`) begins again, of the former release.
An instance of the new release that ends after it has taken over stops the rollout too. Nothing begins in its place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from orchestrator.lifecycle import ReasonCode
from orchestrator.supervisor.plan import End, Forget, Member, Phase
from orchestrator.supervisor.update import ReleaseName, Strategy, Update, UpdateStep, remedied, stepped

_NOTHING: Final = "Every instance is of this release already."


@dataclass(frozen=True, slots=True)
class BeginCandidate:
    """Begin an instance of the new release, in the role `candidate`."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Begin its proof. If that fails, end it by the verdict."""

    generation: int


@dataclass(frozen=True, slots=True)
class Switch:
    """In one step: the candidate takes new runs, and `drains` takes none."""

    generation: int
    proof: str
    drains: int | None


@dataclass(frozen=True, slots=True)
class Drain:
    """It takes no new runs."""

    generation: int


@dataclass(frozen=True, slots=True)
class BeginFormer:
    """Begin an instance of the former release, in the role `serving`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The update ends: at SETTLED, or where no candidate has served at REJECTED."""

    reason_code: ReasonCode | None = None
    reason: str | None = None
    restores: bool = False


Action = BeginCandidate | Prove | Switch | Drain | End | Forget | BeginFormer | Finish


def built(
    update: Update,
    to: ReleaseName,
    strategy: tuple[Strategy, str],
    instances: Iterable[Member],
    now: datetime,
    *,
    replicas: int,
    drain: timedelta,
) -> Update:
    """The update once there is a release. `strategy`: by `choose_strategy`."""
    alive = [each for each in instances if each.serves]
    return stepped(
        update,
        UpdateStep.BUILT,
        now,
        to_release=to,
        strategy=strategy[0],
        strategy_reason=strategy[1],
        replicas=replicas,
        drain_seconds=drain.total_seconds(),
        served_before=len(alive),
        # After a rollout that stopped, another one goes on with the rest.
        switched=tuple(each.generation for each in alive if each.release == to.id),
    )


def next_action(update: Update, instances: Sequence[Member], now: datetime) -> Action | None:
    """`instances`: all of the plugin, those that ended too as long as they are known."""
    if update.ended:
        return BeginFormer() if update.restores else None
    if update.step is UpdateStep.PROPOSED:
        return None
    by_generation = {each.generation: each for each in instances}
    if update.candidate is not None:
        return _of_candidate(update, by_generation.get(update.candidate), instances)
    if update.draining is not None:
        return _of_draining(update, by_generation.get(update.draining), now)
    return _next_replica(update, instances)


def wakes_at(update: Update) -> datetime | None:
    """When to ask again where nothing happens before."""
    if update.ended or update.draining_since is None:
        return None
    return update.draining_since + timedelta(seconds=update.drain_seconds)


def recorded(  # noqa: PLR0911 - one per action
    update: Update, action: Action, now: datetime, generation: int | None = None
) -> Update:
    """The update with the action on record. `generation`: of the instance that the action begins."""
    match action:
        case BeginCandidate():
            assert generation is not None  # noqa: S101 - it is allotted before anything begins
            return replace(_starting(update, now), candidates=(*update.candidates, generation))
        case Prove():
            first = update.step is UpdateStep.STARTING
            proving = stepped(update, UpdateStep.PROVING, now) if first else update
            return replace(proving, proving=action.generation)
        case Switch():
            first = update.step is UpdateStep.PROVING
            switched = stepped(update, UpdateStep.SWITCHED, now, proof=action.proof) if first else update
            done = replace(
                switched,
                switched=(*update.switched, action.generation),
                switch_times=(*update.switch_times, now),
            )
            return done if action.drains is None else _draining(done, action.drains, now)
        case Drain():
            return _draining(_starting(update, now), action.generation, now)
        case Forget():
            return replace(update, draining=None, draining_since=None, retired=(*update.retired, action.generation))
        case BeginFormer():
            return replace(update, restores=False)
        case Finish():
            return _finished(update, action, now)
        case End():
            return update


def abandoned(update: Update, code: ReasonCode, reason: str, now: datetime) -> Update:
    """The update, which ends for a reason outside of it: a refusal before it was BUILT, or an operator's stop."""
    return update if update.ended else _finished(update, Finish(code, reason), now)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """What becomes of the instances of a rollout that breaks off; generations. The others stay as they are."""

    serve: tuple[int, ...]
    drain: tuple[int, ...]
    end: tuple[int, ...]
    restores: bool
    """An instance of the former release is to begin again."""


def left_over(update: Update, instances: Sequence[Member]) -> LeftOver:
    """What has switched serves, a candidate that has not ends. What was ended for a candidate begins again, what drains
    for one serves again: their number is what it was.
    """
    alive = [each for each in instances if each.alive]
    serving = {each.generation for each in alive if each.role == "serving" or each.generation in update.switched}
    drains = {each.generation for each in alive if each.generation == update.draining}
    missing = update.served_before - len(serving - drains)
    serving = serving | drains if missing > 0 else serving - drains
    made_room = len(update.retired) + (update.draining is not None and not drains)
    return LeftOver(
        serve=tuple(each.generation for each in alive if each.generation in serving and each.role != "serving"),
        drain=tuple(drains - serving),
        end=tuple(each.generation for each in alive if each.role == "candidate" and each.generation not in serving),
        restores=missing > len(drains) and made_room > len(_begun(update)),
    )


def broken_off(update: Update, rest: LeftOver, code: ReasonCode, reason: str, now: datetime) -> Update:
    """The update, which ends in the middle for a reason outside of it."""
    return _finished(update, Finish(code, reason, rest.restores), now)


def _next_replica(update: Update, instances: Sequence[Member]) -> Action | None:
    alive = {each.generation for each in instances if each.alive}
    for generation in update.switched:
        if generation in update.candidates and generation not in alive:
            found = next((each for each in instances if each.generation == generation), None)
            return _stopped(update, generation, found, instances)
    new, old = len(alive.intersection(update.switched)), _old(update, instances)
    if new >= update.replicas and not old:
        return Finish(reason=None if update.candidates or update.retired else _NOTHING)
    makes_room = update.strategy == "replace" and new + len(old) >= update.served_before
    if old and (new >= update.replicas or makes_room):
        return Drain(_first(old).generation)
    # What ended and is not removed may hold the GPU that the candidate needs.
    held = any(each.phase is Phase.ENDED for each in instances)
    return None if held else BeginCandidate()


def _of_candidate(update: Update, found: Member | None, instances: Sequence[Member]) -> Action | None:
    generation = update.candidates[-1]
    if found is None or found.phase is Phase.REMOVED:
        return _stopped(update, generation, found, instances)
    if found.phase is not Phase.READY:  # one that ended may hold the GPU of the one that begins again
        return None
    if found.proof is None:
        return None if update.proving == generation else Prove(generation)
    serving = [each for each in instances if each.serves]
    old = _old(update, instances)
    drains = _first(old).generation if old and len(serving) + 1 > update.replicas else None
    return Switch(generation, found.proof, drains)


def _of_draining(update: Update, found: Member | None, now: datetime) -> Action | None:
    generation = update.draining
    assert generation is not None  # noqa: S101 - only called where there is one
    if found is None or found.phase is Phase.REMOVED:
        return Forget(generation)
    if not found.alive:
        return None
    wakes = wakes_at(update)
    over = wakes is not None and now >= wakes
    return End(generation) if over or not found.in_flight else None


def _stopped(update: Update, generation: int, found: Member | None, instances: Sequence[Member]) -> Finish:
    """The end of an update for the end of an instance of the new release."""
    code = (found and found.reason_code) or ReasonCode.KILLED
    cause = (found and found.reason) or "It is no longer there, and nothing says why."
    made_room = update.strategy == "replace" and len(update.retired) > len(_begun(update))
    restores = generation not in update.switched and made_room
    if update.step is not UpdateStep.SWITCHED:
        return Finish(code, cause, restores)
    to, old = update.to_release, update.from_release
    alive = {each.generation for each in instances if each.serves}
    of_new = len(alive.intersection(update.switched))
    counts = f"{of_new} of {update.replicas} instances are of {to.version if to else 'the new version'}"
    others = len(alive) - of_new + restores
    if others:
        counts += f", {others} of {old.version if old else 'the former'}"
    reason = (
        f"The rollout stopped, since instance {generation} ended: {cause} {counts}; these serve. `update` goes on with "
        "the rest, `revert` goes back."
    )
    return Finish(code, reason, restores)


def _begun(update: Update) -> list[int]:
    """The instances of the new release that this update has begun, and that have taken over."""
    return [each for each in update.switched if each in update.candidates]


def _finished(update: Update, end: Finish, now: datetime) -> Update:
    settles = update.step is UpdateStep.SWITCHED or end.reason_code is None
    step = UpdateStep.SETTLED if settles else UpdateStep.REJECTED
    reason = None if end.reason is None else remedied(end.reason, update.kind)
    return stepped(update, step, now, reason_code=end.reason_code, reason=reason, restores=end.restores)


def _starting(update: Update, now: datetime) -> Update:
    return stepped(update, UpdateStep.STARTING, now) if update.step is UpdateStep.BUILT else update


def _draining(update: Update, generation: int, now: datetime) -> Update:
    return replace(update, draining=generation, draining_since=now)


def _old(update: Update, instances: Iterable[Member]) -> list[Member]:
    return [each for each in instances if each.serves and each.generation not in update.switched]


def _first(old: Iterable[Member]) -> Member:
    """The one to end next: that with the fewest runs, among equals the oldest."""
    return min(old, key=lambda each: (each.in_flight, each.generation))
