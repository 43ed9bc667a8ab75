"""What is on file of a plugin's releases: after a kill, a full disk, a broken file; and what a start begins from."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.checkout import PROJECT

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.supervisor.plan import Member, Phase
from orchestrator.supervisor.release_store import ReleaseFile, ReleaseStore, ReleaseStoreError
from orchestrator.supervisor.releases import (
    PluginReleases,
    Release,
    advanced,
    begins_from,
    held_for,
    idled,
    release_id,
    resume,
    started,
    switched,
    with_proposed,
    woken,
)
from orchestrator.supervisor.rollout import BeginCandidate, Finish, Prove, Switch, built, recorded
from orchestrator.supervisor.update import UpdateStep, proposed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def release(version: str) -> Release:
    manifest = Manifest.model_validate(
        {"name": "reader", "version": version, "description": "d", "entrypoint": "a:B", "limits": {"memory": "2GiB"}}
    )
    return Release.of(manifest, content=f"c{version}", image_id=f"sha256:{version}", folder=Path("/plugins/reader"))


ONE, TWO, THREE = release("1"), release("2"), release("3")


def updated(state: PluginReleases, to: Release, *, kind: str = "update", fails: bool = False) -> PluginReleases:
    """The state after a whole update."""
    update = proposed(f"u{len(state.updates)}", "reader", NOW, kind=kind, current=state.current and state.current.name)
    state = with_proposed(state, update)
    old = Member(1, Phase.READY, "serving", release=state.current.id if state.current else "")
    update = built(update, to.name, ("overlap", ""), [old], NOW, replicas=1, drain=timedelta(seconds=1))
    state = with_proposed(state, update, to)
    actions = [BeginCandidate(), Prove(2), Finish(ReasonCode.TIMEOUT, "Slow.")]
    for action in actions if fails else [*actions[:2], Switch(2, "proven", 1), Finish()]:
        update = recorded(update, action, NOW, 2)
        state = advanced(state, update)
    return state


def test_an_update_makes_the_former_release_the_one_to_go_back_to() -> None:
    state = updated(PluginReleases(current=ONE), TWO)
    assert (state.current, state.former, state.proposed, state.pinned) == (TWO, ONE, None, False)


def test_a_rejected_update_leaves_both_as_they_were() -> None:
    state = updated(updated(PluginReleases(current=ONE), TWO), THREE, fails=True)
    assert (state.current, state.former, state.proposed) == (TWO, ONE, None)
    assert [each.step for each in state.updates] == [UpdateStep.REJECTED, UpdateStep.SETTLED]


def test_a_revert_says_so_of_the_update_and_stays() -> None:
    state = updated(updated(PluginReleases(current=ONE), TWO), ONE, kind="revert")
    assert (state.current, state.former, state.pinned) == (ONE, TWO, True)
    assert [(each.kind, each.step) for each in state.updates] == [("revert", "SETTLED"), ("update", "REVERTED")]
    state = updated(state, THREE)
    assert (state.current, state.former, state.pinned) == (THREE, ONE, False)


def test_a_restart_into_another_release_can_be_reverted_too() -> None:
    state = started(PluginReleases(), ONE)
    assert (state.current, state.former) == (ONE, None)
    assert started(state, ONE) is state
    state = started(state, TWO)
    assert (state.current, state.former) == (TWO, ONE)


def test_updates_on_file_are_bounded() -> None:
    state = PluginReleases(current=ONE)
    for _ in range(30):
        state = updated(state, TWO)
    assert len(state.updates) == 20


def test_the_images_of_all_that_may_begin_again_are_in_use() -> None:
    state = updated(PluginReleases(current=ONE), TWO)
    assert state.images == {"sha256:1", "sha256:2"}
    assert with_proposed(state, proposed("u9", "reader", NOW), THREE).images == {"sha256:1", "sha256:2", "sha256:3"}


@pytest.mark.parametrize(
    ("state", "content", "begins"),
    [
        (PluginReleases(), "c1", "folder"),
        (PluginReleases(current=ONE), "c1", "folder"),
        (PluginReleases(current=ONE), "c2", "folder"),
        (updated(PluginReleases(current=ONE), TWO, fails=True), "c2", "current"),
        (updated(PluginReleases(current=ONE), TWO, fails=True), "c3", "folder"),
        (updated(PluginReleases(current=ONE), TWO, fails=True), None, "folder"),
        (updated(updated(PluginReleases(current=ONE), TWO), ONE, kind="revert"), "c2", "current"),
        (updated(updated(PluginReleases(current=ONE), TWO), ONE, kind="revert"), None, "current"),
    ],
)
def test_a_start_begins_neither_what_was_reverted_nor_what_was_rejected(
    state: PluginReleases, content: str | None, begins: str
) -> None:
    assert begins_from(state, content) == begins


def test_a_release_is_known_by_its_content_and_its_image() -> None:
    assert ONE.id == release_id("c1", "sha256:1") != release_id("c1", "sha256:2")
    assert ONE.read_manifest().limits.memory == 2 * 1024**3
    assert (ONE.name.version, ONE.name.content) == ("1", "c1")


def halfway(step: UpdateStep) -> PluginReleases:
    """An update of one instance, 1, whose candidate is 2."""
    state = with_proposed(PluginReleases(current=ONE), proposed("u", "reader", NOW, current=ONE.name))
    if step is UpdateStep.PROPOSED:
        return state
    update = built(
        state.update or proposed("", "", NOW),
        TWO.name,
        ("overlap", ""),
        [Member(1, Phase.READY, "serving", release=ONE.id)],
        NOW,
        replicas=1,
        drain=timedelta(seconds=60),
    )
    state = with_proposed(state, update, TWO)
    for action in (BeginCandidate(), Prove(2), Switch(2, "proven", 1)):
        if update.step is step:
            break
        update = recorded(update, action, NOW, 2)
        state = advanced(state, update)
    assert update.step is step
    return state


@pytest.mark.parametrize("step", ["PROPOSED", "BUILT", "STARTING", "PROVING"])
def test_before_the_switch_the_former_release_serves(step: str) -> None:
    found = resume(halfway(UpdateStep(step)), [1, 2] if step in ("STARTING", "PROVING") else [1], NOW)
    assert (found.serves, found.drains) == ((1,), ())
    assert found.removes == ((2,) if step in ("STARTING", "PROVING") else ())
    update = found.state.update
    assert update is not None
    assert (update.step, update.reason_code) == (UpdateStep.REJECTED, ReasonCode.STOPPED)
    assert update.reason == f"The orchestrator ended while the update was {step}."
    assert found.state.current == ONE


def test_from_the_switch_on_the_new_release_serves_and_the_rollout_goes_on() -> None:
    found = resume(halfway(UpdateStep.SWITCHED), [1, 2], NOW)
    assert (found.serves, found.drains, found.removes) == ((2,), (1,), ())
    assert found.state.under_way is not None
    assert found.state.current == TWO


def test_where_the_new_instance_died_too_that_is_said() -> None:
    found = resume(halfway(UpdateStep.SWITCHED), [1], NOW)
    assert (found.serves, found.drains) == ((1,), ())
    update = found.state.update
    assert update is not None
    assert (update.step, update.reason_code) == (UpdateStep.SETTLED, ReasonCode.KILLED)
    assert update.reason is not None
    assert "instance 2 of the new release" in update.reason


def test_what_a_failed_removal_left_is_removed_by_the_next_orchestrator() -> None:
    """Of an update that has long ended."""
    assert resume(updated(PluginReleases(current=ONE), TWO, fails=True), [1, 2], NOW).removes == (2,)
    assert resume(PluginReleases(current=ONE), [1, 2], NOW).serves == (1, 2)


# Files


def test_what_was_written_is_read_by_the_next(tmp_path: Path) -> None:
    state = replace(updated(PluginReleases(current=ONE), TWO, fails=True), replicas=3, pinned=True)
    ReleaseStore(tmp_path / "releases").write("reader", state)
    store = ReleaseStore(tmp_path / "releases")
    assert store.get("reader") == PluginReleases()
    store.load()
    assert store.get("reader") == state
    assert store.images("reader") == {"sha256:1"}
    assert (tmp_path / "releases").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "releases").iterdir()} == {0o600}


@pytest.mark.parametrize("content", [b"", b"{", b'{"current": 7}', b"\xff\xfe"])
def test_a_broken_file_costs_one_plugin_s_memory(tmp_path: Path, content: bytes) -> None:
    ReleaseStore(tmp_path).write("writer", PluginReleases(replicas=2))
    (tmp_path / "reader.json").write_bytes(content)
    (tmp_path / ".reader.abc").write_bytes(b"half")
    store = ReleaseStore(tmp_path)
    store.load()
    assert (store.get("reader"), store.get("writer").replicas) == (PluginReleases(), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reader.unreadable", "writer.json"]


def test_a_newer_program_s_fields_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "reader.json").write_text('{"replicas": 2, "later": {"a": 1}}')
    store = ReleaseStore(tmp_path)
    store.load()
    assert store.get("reader").replicas == 2


def test_what_cannot_be_written_has_not_happened(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "releases")
    store.write("reader", PluginReleases(replicas=2))
    (tmp_path / "releases").rename(tmp_path / "away")
    (tmp_path / "releases").write_text("no folder")
    with pytest.raises(ReleaseStoreError, match="The releases of reader cannot be written") as refused:
        store.write("reader", PluginReleases(replicas=3))
    assert str(tmp_path) not in str(refused.value)
    assert store.get("reader").replicas == 2


WRITER = """
import sys
import time
from pathlib import Path
from orchestrator.supervisor.release_store import ReleaseStore
from orchestrator.supervisor.releases import PluginReleases
store = ReleaseStore(Path(sys.argv[1]))
for number in range(1, 1_000_000):
    store.write("reader", PluginReleases(replicas=number))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_kill_leaves_the_last_state_or_the_one_that_was_being_written(tmp_path: Path) -> None:
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as process:
            assert process.stdout is not None
            said = [int(process.stdout.readline()) for _ in range(5)]
            os.kill(process.pid, signal.SIGKILL)
            said += [int(line) for line in process.stdout.read().split()]
        store = ReleaseStore(tmp_path)
        store.load()
        assert store.get("reader").replicas in (said[-1], said[-1] + 1)
        assert [path.name for path in tmp_path.iterdir()] == ["reader.json"]


async def test_a_change_that_is_given_up_is_over_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread cannot be stopped: both at once would leave either of the two."""
    store = ReleaseStore(tmp_path)
    write, slow, writes = ReleaseStore.write, True, threading.Event()

    def write_slowly(store: ReleaseStore, plugin: str, state: PluginReleases) -> None:
        nonlocal slow
        if slow:
            slow = False
            writes.set()
            time.sleep(0.3)
        write(store, plugin, state)

    monkeypatch.setattr(ReleaseStore, "write", write_slowly)
    file = ReleaseFile(store, "reader")
    given_up = asyncio.create_task(file.change(lambda state: replace(state, replicas=2)))
    assert await asyncio.to_thread(writes.wait, 10)
    given_up.cancel()
    await file.change(lambda state: replace(state, replicas=(state.replicas or 0) + 1))
    assert file.state.replicas == 3
    again = ReleaseStore(tmp_path)
    again.load()
    assert again.get("reader").replicas == 3
    with pytest.raises(asyncio.CancelledError):
        await given_up


@pytest.mark.parametrize("change", [idled, woken])
@pytest.mark.parametrize("state", [PluginReleases(held="stopped"), PluginReleases(moved_to="b")])
def test_what_a_command_stopped_is_neither_parked_nor_woken(
    state: PluginReleases, change: Callable[[PluginReleases], PluginReleases]
) -> None:
    assert state.stopped and change(state) == state
    begun = held_for(state, None, placed=False)
    assert not begun.stopped
    assert woken(idled(begun)) == begun and idled(begun).held == "parked"


def test_an_update_that_ends_does_not_undo_a_hand_over() -> None:
    leaving = PluginReleases(held="parked", moved_to="b")
    assert switched(leaving, placed=True) == PluginReleases(moved_to="b", placed=True)


async def test_a_park_that_waits_behind_a_stop_does_not_undo_it(tmp_path: Path) -> None:
    """As where an instance is parked while the stop is being written."""
    store = ReleaseStore(tmp_path)
    file = ReleaseFile(store, "reader")
    stopping = asyncio.create_task(file.hold("stopped"))
    await asyncio.sleep(0)
    assert file.state.held is None
    file.idled_soon()
    file.woken_soon()
    await stopping
    await file.written()
    assert file.state.held == "stopped"
    await file.hold(None)
    file.idled_soon()
    await file.written()
    assert file.state.held == "parked"
