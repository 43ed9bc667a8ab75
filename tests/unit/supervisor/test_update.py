"""Steps of an update, the choice of its strategy, and what it does in plain cases."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace as changed

from orchestrator.errors import TransitionError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import UpdatePolicy
from orchestrator.supervisor.plan import End, Forget, Member, Phase
from orchestrator.supervisor.rollout import (
    BeginCandidate,
    BeginFormer,
    Drain,
    Finish,
    Prove,
    Switch,
    abandoned,
    built,
    next_action,
    recorded,
    wakes_at,
)
from orchestrator.supervisor.update import (
    ENDED_STEPS,
    STEPS,
    ReleaseName,
    Strategy,
    Update,
    UpdateStep,
    check_step,
    choose_strategy,
    proposed,
    remedied,
    stepped,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = ReleaseName("old", "1.2.0"), ReleaseName("new", "1.3.0")
GIB = 1 << 30
WAY = ["PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED", "REVERTED"]


def under_way(strategy: Strategy = "overlap", *, replicas: int = 1, alive: int = 1) -> Update:
    instances = [Member(number, Phase.READY, "serving", release=OLD.id) for number in range(1, alive + 1)]
    update = proposed("u", "x", NOW, current=OLD)
    return built(update, NEW, (strategy, "why"), instances, NOW, replicas=replicas, drain=timedelta(seconds=60))


@pytest.mark.parametrize("current", list(UpdateStep))
@pytest.mark.parametrize("target", list(UpdateStep))
def test_steps_go_forward_only(current: UpdateStep, target: UpdateStep) -> None:
    """To the next one, to the end, or to REJECTED as long as none of the new release has served."""
    way = WAY.index(current) if current in WAY else None
    allowed = target in WAY and way is not None and WAY.index(target) == way + 1
    allowed |= target is UpdateStep.REJECTED and current in ("PROPOSED", "BUILT", "STARTING", "PROVING")
    allowed |= target is UpdateStep.SETTLED and current in ("BUILT", "STARTING")
    if allowed:
        check_step(current, target)
    else:
        with pytest.raises(TransitionError, match=f"an update cannot go from {current} to {target}; after"):
            check_step(current, target)


def test_every_step_but_the_last_ones_leads_on() -> None:
    assert STEPS.keys() == set(UpdateStep)
    assert {step for step in UpdateStep if not STEPS[step]} == ENDED_STEPS - {UpdateStep.SETTLED}


def test_each_step_has_its_time() -> None:
    later = NOW + timedelta(seconds=3)
    update = stepped(under_way(), UpdateStep.STARTING, later)
    assert update.times == {"PROPOSED": NOW, "BUILT": NOW, "STARTING": later}


@pytest.mark.parametrize(
    ("policy", "asked", "room", "strategy", "why"),
    [
        ("auto", "auto", {}, "overlap", "there is room for a second instance"),
        ("auto", "auto", {"memory_needed": GIB, "memory_free": GIB}, "overlap", "there is room for a second instance"),
        ("auto", "auto", {"memory_needed": GIB}, "overlap", "there is room for a second instance"),
        (
            "auto",
            "auto",
            {"gpu_missing": "GPU 0 is held by reader"},
            "replace",
            "there is no GPU for a second instance: GPU 0 is held by reader",
        ),
        (
            "auto",
            "auto",
            {"gpu_missing": "GPU 0 is held by reader", "parks": ("reader",)},
            "overlap",
            "reader is idle, and parked for a second instance",
        ),
        (
            "auto",
            "auto",
            {"gpu_missing": "x", "parks": ("a", "b"), "memory_needed": 2 * GIB, "memory_free": GIB},
            "replace",
            "a second instance may take 2 GiB (`limits.memory`), and the host has 1 GiB available",
        ),
        (
            "auto",
            "auto",
            {"memory_needed": 2 * GIB, "memory_free": GIB},
            "replace",
            "a second instance may take 2 GiB (`limits.memory`), and the host has 1 GiB available",
        ),
        ("replace", "auto", {}, "replace", "the manifest says so (`update.strategy`)"),
        ("overlap", "auto", {"gpu_missing": "x"}, "overlap", "the manifest says so (`update.strategy`)"),
        ("replace", "overlap", {"gpu_missing": "x"}, "overlap", "the operator asked for it"),
        ("overlap", "replace", {}, "replace", "the operator asked for it"),
    ],
)
def test_the_strategy_has_a_reason(policy: str, asked: str, room: dict, strategy: str, why: str) -> None:
    assert choose_strategy(UpdatePolicy(strategy=policy), asked, **room) == (strategy, why)


def test_one_instance_with_room_for_two() -> None:
    """The new one takes over in one step; the old one's runs may end, within the drain."""
    update, old = under_way(), Member(1, Phase.READY, "serving", release=OLD.id, in_flight=1)
    assert next_action(update, [old], NOW) == BeginCandidate()
    update = recorded(update, BeginCandidate(), NOW, 2)
    new = Member(2, Phase.STARTING, "candidate", release=NEW.id)
    assert (update.step, next_action(update, [old, new], NOW)) == (UpdateStep.STARTING, None)
    new = Member(2, Phase.READY, "candidate", release=NEW.id)
    assert next_action(update, [old, new], NOW) == Prove(2)
    update = recorded(update, Prove(2), NOW)
    assert (update.step, next_action(update, [old, new], NOW)) == (UpdateStep.PROVING, None)
    new = Member(2, Phase.READY, "candidate", release=NEW.id, proof="2 calls passed.")
    switch = Switch(2, "2 calls passed.", drains=1)
    assert next_action(update, [old, new], NOW) == switch
    update = recorded(update, switch, NOW)
    assert (update.step, update.proof, update.candidate) == (UpdateStep.SWITCHED, "2 calls passed.", None)
    new = Member(2, Phase.READY, "serving", release=NEW.id)
    old = Member(1, Phase.READY, "draining", release=OLD.id, in_flight=1)
    late = NOW + timedelta(seconds=60)
    assert wakes_at(update) == late
    assert next_action(update, [old, new], NOW + timedelta(seconds=59)) is None
    assert next_action(update, [old, new], late) == End(1)
    assert next_action(update, [Member(1, Phase.READY, "draining", release=OLD.id), new], NOW) == End(1)
    ended = Member(1, Phase.ENDED, "draining", release=OLD.id)
    assert next_action(update, [ended, new], late) is None
    assert next_action(update, [Member(1, Phase.REMOVED, "draining", release=OLD.id), new], late) == Forget(1)
    update = recorded(update, Forget(1), NOW)
    assert next_action(update, [new], NOW) == Finish()
    update = recorded(update, Finish(), NOW)
    assert (update.step, update.reason, wakes_at(update)) == (UpdateStep.SETTLED, None, None)
    assert next_action(update, [new], NOW) is None


def test_a_candidate_that_fails_is_the_update_s_failure() -> None:
    update = recorded(under_way(), BeginCandidate(), NOW, 2)
    old = Member(1, Phase.READY, "serving", release=OLD.id)
    failed = Member(2, Phase.REMOVED, "candidate", release=NEW.id, reason_code=ReasonCode.MODEL_MISSING, reason="No.")
    finish = Finish(ReasonCode.MODEL_MISSING, "No.")
    still_there = changed(failed, phase=Phase.ENDED)
    assert next_action(update, [old, still_there], NOW) is None, "the one that begins again may need its GPU"
    assert next_action(update, [old, failed], NOW) == finish
    update = recorded(update, finish, NOW)
    assert (update.step, update.reason_code, update.reason) == (UpdateStep.REJECTED, "MODEL_MISSING", "No.")
    assert update.failed_candidate == 2
    assert next_action(update, [old], NOW) is None


def test_on_a_full_gpu_the_old_one_makes_room_and_begins_again_if_that_was_in_vain() -> None:
    update, old = under_way("replace"), Member(1, Phase.READY, "serving", release=OLD.id)
    assert next_action(update, [old], NOW) == Drain(1)
    update = recorded(update, Drain(1), NOW)
    assert update.step is UpdateStep.STARTING
    assert next_action(update, [Member(1, Phase.READY, "draining", release=OLD.id)], NOW) == End(1)
    assert (
        next_action(update, [Member(1, Phase.ENDED, "draining", release=OLD.id)], NOW) is None
    )  # its GPU is not free yet
    assert next_action(update, [Member(1, Phase.REMOVED, "draining", release=OLD.id)], NOW) == Forget(1)
    update = recorded(update, Forget(1), NOW)
    assert next_action(update, [], NOW) == BeginCandidate()
    update = recorded(update, BeginCandidate(), NOW, 2)
    failed = Member(2, Phase.REMOVED, "candidate", release=NEW.id, reason_code=ReasonCode.CRASHED, reason="It crashed.")
    finish = next_action(update, [failed], NOW)
    assert finish == Finish(ReasonCode.CRASHED, "It crashed.", restores=True)
    update = recorded(update, finish, NOW)
    assert next_action(update, [failed], NOW) == BeginFormer()
    update = recorded(update, BeginFormer(), NOW, 3)
    assert next_action(update, [failed, Member(3, Phase.ENDED, "serving", release=OLD.id)], NOW) is None  # once


def test_an_instance_that_ends_after_it_took_over_stops_the_rollout() -> None:
    """Nothing begins in its place: an operator decides."""
    update = under_way(replicas=2, alive=2)
    for action in (BeginCandidate(), Prove(3), Switch(3, "proven", drains=1), Forget(1)):
        update = recorded(update, action, NOW, 3)
    instances = [
        Member(2, Phase.READY, "serving", release=OLD.id),
        Member(3, Phase.REMOVED, "serving", release=NEW.id, reason_code=ReasonCode.TIMEOUT, reason="It hung."),
    ]
    finish = next_action(update, instances, NOW)
    assert isinstance(finish, Finish)
    assert (finish.reason_code, finish.restores) == (ReasonCode.TIMEOUT, False)
    assert finish.reason == (
        "The rollout stopped, since instance 3 ended: It hung. 0 of 2 instances are of 1.3.0, 1 of 1.2.0; these serve. "
        "`update` goes on with the rest, `revert` goes back."
    )
    assert recorded(update, finish, NOW).step is UpdateStep.SETTLED


def test_where_every_instance_is_of_the_release_there_is_nothing_to_do() -> None:
    instances = [Member(1, Phase.READY, "serving", release=NEW.id)]
    update = built(
        proposed("u", "x", NOW, current=NEW), NEW, ("overlap", ""), instances, NOW, replicas=1, drain=timedelta(1)
    )
    finish = next_action(update, instances, NOW)
    assert finish == Finish(reason="Every instance is of this release already.")
    assert recorded(update, finish, NOW).step is UpdateStep.SETTLED


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
@pytest.mark.parametrize("drains", [OLD, NEW])
def test_what_drains_already_is_none_of_the_update(strategy: Strategy, drains: ReleaseName) -> None:
    """After a `scale` to fewer: it does not serve, whatever it is of, and makes no room."""
    leaving = Member(1, Phase.READY, "draining", release=drains.id, in_flight=1)
    serving = Member(2, Phase.READY, "serving", release=OLD.id)
    update = built(
        proposed("u", "x", NOW, current=OLD),
        NEW,
        (strategy, "why"),
        [leaving, serving],
        NOW,
        replicas=1,
        drain=timedelta(seconds=60),
    )
    assert (update.served_before, update.switched) == (1, ())
    first = Drain(2) if strategy == "replace" else BeginCandidate()
    assert next_action(update, [leaving, serving], NOW) == first


def test_a_plugin_without_an_instance_gets_one() -> None:
    """And if that fails, none of the former release begins: there was none."""
    update = under_way("replace", alive=0)
    assert next_action(update, [], NOW) == BeginCandidate()
    update = recorded(update, BeginCandidate(), NOW, 4)
    failed = Member(4, Phase.REMOVED, "candidate", release=NEW.id, reason_code=ReasonCode.CRASHED, reason="x")
    assert next_action(update, [failed], NOW) == Finish(ReasonCode.CRASHED, "x", restores=False)


@pytest.mark.parametrize("steps", range(5))
def test_a_stop_ends_it_at_every_step(steps: int) -> None:
    update = under_way()
    for action in (BeginCandidate(), Prove(2), Switch(2, "proven", drains=1), Finish())[:steps]:
        update = recorded(update, action, NOW, 2)
    stopped = abandoned(update, ReasonCode.STOPPED, "The plugin was stopped.", NOW)
    assert stopped.ended
    assert stopped.step is (UpdateStep.SETTLED if steps >= 3 else UpdateStep.REJECTED)
    assert (stopped is update) == (steps == 4)
    assert next_action(stopped, [], NOW) is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("It left by itself. Fix it, then restart the plugin.", "It left by itself. Fix it, then update again."),
        ("Do this; then restart the plugin. Or that.", "Do this; then update again. Or that."),
        ("Fix the plugin, then restart it.", "Fix the plugin, then update again."),
        ("pull it, then restart the plugin", "pull it, then update again"),
        # Another plugin, the engine, the plugin's own words.
        ("then restart the plugin reader.", "then restart the plugin reader."),
        ("and restart the engine.", "and restart the engine."),
        ("Nothing is on file of 2.0.0; restart it.", "Nothing is on file of 2.0.0; restart it."),
    ],
)
def test_what_to_do_about_a_rejection_is_another_update(said: str, shown: str) -> None:
    assert remedied(said, "update") == shown
    assert remedied("Fix it, then restart the plugin.", "revert") == "Fix it, then revert again."
