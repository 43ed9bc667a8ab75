"""Releases: per plugin a small file that says what its instances are made from, and how far an update has come.

The history would be the wrong place: it groups its writes, goes on without a disk, and forgets. This must be on the
disk before it takes effect, and stay. So each plugin has a JSON file of its own in the state folder, which is replaced
as a whole, and synced, with every change; a broken one costs one plugin's memory and no other's.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from orchestrator.errors import OrchestratorError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.supervisor.hand_over import Epoch
from orchestrator.supervisor.plan import Member
from orchestrator.supervisor.rollout import abandoned
from orchestrator.supervisor.update import ReleaseName, Update, UpdateStep, stepped

Held = Literal["stopped", "parked"]

_MAX_UPDATES: Final = 20
"""Of one plugin that are retained, the newest."""


class UpdateRefusedError(OrchestratorError):
    """A command that the plugin's releases do not allow now. `kind` is the API's `error_type`."""

    def __init__(self, message: str, kind: Literal["UpdateUnderWay", "RestartUnderWay", "NothingToRevert"]) -> None:
        super().__init__(message)
        self.kind = kind


class Release(msgspec.Struct, frozen=True):
    """What instances are made from. `content` is the fingerprint of its configuration, `folder` the plugin's."""

    content: str
    image_id: str
    manifest: Mapping[str, Any]
    """The fields that were set in plugin.yaml, in their JSON form."""
    folder: str

    @property
    def id(self) -> str:
        """The same for the same content and image."""
        return release_id(self.content, self.image_id)

    @property
    def name(self) -> ReleaseName:
        return ReleaseName(self.id, str(self.manifest.get("version", "")), self.content)

    @classmethod
    def of(cls, manifest: Manifest, *, content: str, image_id: str, folder: Path) -> "Release":
        return cls(content, image_id, manifest.model_dump(mode="json", exclude_unset=True), str(folder))

    def read_manifest(self) -> Manifest:
        """Raises `ValueError` where this program no longer takes what an earlier one did."""
        return Manifest.model_validate(dict(self.manifest))


class PluginReleases(msgspec.Struct, frozen=True):
    """What is on file of one plugin."""

    current: Release | None = None
    """Of the instances that serve, or have last."""
    former: Release | None = None
    """What `revert` goes back to."""
    proposed: Release | None = None
    """What an update brings up, as long as it is under way."""
    pinned: bool = False
    """`current` is begun again whatever the plugin's folder has: an operator went back to it."""
    replicas: int | None = None
    """By an operator's `scale`; None where the manifest's number holds."""
    held: Held | None = None
    """The orchestrator's start begins none: an operator stopped it, or it is parked, and no command or run has come
    since.
    """
    placed: bool = False
    """A command has started it here, since a front places plugins."""
    moved_to: str | None = None
    """The host that it was handed over to; None once a command has started it here."""
    epoch: Epoch = Epoch()
    """The highest seen."""
    update: Update | None = None
    """The one under way, or the last."""
    earlier: tuple[Update, ...] = ()
    """Updates before that, the oldest first."""

    @property
    def stopped(self) -> bool:
        """Nothing but a command begins it here: an operator stopped it, or another host has it, or is about to."""
        return self.held == "stopped" or self.moved_to is not None

    @property
    def under_way(self) -> Update | None:
        return None if self.update is None or self.update.ended else self.update

    @property
    def updates(self) -> tuple[Update, ...]:
        """The newest first."""
        newest = () if self.update is None else (self.update,)
        return (*newest, *reversed(self.earlier))

    @property
    def may_begin_current(self) -> bool:
        """A start may begin `current` and not what the folder has: see `begins_from`."""
        rejected = self.update is not None and self.update.step is UpdateStep.REJECTED
        return self.current is not None and (self.pinned or rejected)

    @property
    def last_generation(self) -> int:
        """The highest that an update speaks of: one that was allotted is not to be used again."""
        named = () if self.update is None else (*self.update.candidates, *self.update.switched, *self.update.retired)
        return max(named, default=0)

    def replicas_of(self, manifest: Manifest) -> int:
        """How many instances of this manifest are wanted at a time."""
        return manifest.replicas if self.replicas is None else self.replicas

    def named(self, wanted: ReleaseName | None) -> Release | None:
        """The release that an update names; None where it is no longer on file."""
        known = (each for each in (self.proposed, self.current, self.former) if each is not None)
        return None if wanted is None else next((each for each in known if each.id == wanted.id), None)

    @property
    def images(self) -> frozenset[str]:
        """Ids of the images that no clean-up may remove."""
        return frozenset(each.image_id for each in (self.current, self.former, self.proposed) if each is not None)


def release_id(content: str, image_id: str) -> str:
    """Also for a container, from the label of its content and the id of its image."""
    return hashlib.sha256(f"{content}\n{image_id}".encode()).hexdigest()[:12]


Command = Literal["update", "revert", "scale", "restart", "start", "park"]


def require_allowed(command: Command, state: PluginReleases) -> None:
    """Raises `UpdateRefusedError`. A stop is always allowed, and ends an update that is under way."""
    if (update := state.under_way) is not None:
        raise UpdateRefusedError(
            f"The {update.kind} {update.id} of {update.plugin} is under way: {update.step} since "
            f"{update.times[update.step.value]:%H:%M:%S} UTC. Wait for its end, or stop the plugin, which ends it, "
            f"then {command} again.",
            "UpdateUnderWay",
        )


def revert_target(state: PluginReleases, members: Iterable[Member]) -> Release:
    """What a revert goes back to: the release that served last, where none of its instances is left and what took its
    place, by a restart, does not serve; else the one before. Raises `UpdateRefusedError`.
    """
    shown = [member for member in members if member.role != "candidate"]
    current = state.current
    if current is not None and shown and not any(each.alive or each.release == current.id for each in shown):
        return current
    if state.former is None:
        raise UpdateRefusedError(
            "There is nothing to revert to: no other release of the plugin has served since its releases are recorded.",
            "NothingToRevert",
        )
    return state.former


# Changes, pure


def started(state: PluginReleases, release: Release) -> PluginReleases:
    """A `start` or `restart` brought up an instance of `release`, which is ready."""
    if state.current is not None and state.current.id == release.id:
        return state
    return replace(state, current=release, former=state.current or state.former, pinned=False)


def held_for(state: PluginReleases, held: Held | None, *, placed: bool) -> PluginReleases:
    """Its instances are stopped or parked, or, with None, begun. `placed`: what is begun has its place here."""
    if held is not None:
        return replace(state, held=held)
    return replace(state, held=None, moved_to=None, placed=state.placed or placed)


def switched(state: PluginReleases, *, placed: bool) -> PluginReleases:
    """An update has begun instances. It may have been under way before a hand-over, which goes on then."""
    return replace(state, held=None, placed=state.placed or placed)


def idled(state: PluginReleases) -> PluginReleases:
    """Its instances were parked without a command. What a command stopped meanwhile stays stopped."""
    return state if state.stopped else replace(state, held="parked")


def woken(state: PluginReleases) -> PluginReleases:
    """A run begins the instances that were parked. What a command stopped meanwhile stays stopped."""
    return state if state.stopped else replace(state, held=None)


def with_proposed(state: PluginReleases, update: Update, release: Release | None = None) -> PluginReleases:
    """A new update is under way, or has its release now. A new one wants the plugin here, where it was moved away."""
    if state.update is None:
        state = replace(state, moved_to=None)
    elif state.update.id != update.id:
        earlier = (*state.earlier, state.update)[-(_MAX_UPDATES - 1) :]
        state = replace(state, earlier=earlier, proposed=None, moved_to=None)
    return replace(state, update=update, proposed=release or state.proposed)


def advanced(state: PluginReleases, update: Update) -> PluginReleases:
    """The update under way has come further. At its first switch the releases change places."""
    before, release = state.update, state.proposed
    state = replace(state, update=update, proposed=None if update.ended else release)
    switched = update.step is UpdateStep.SWITCHED and (before is None or before.step is not UpdateStep.SWITCHED)
    if release is not None and update.step is UpdateStep.SETTLED and release.id == (state.current and state.current.id):
        return replace(state, current=release)  # its manifest may say something else of the set
    if not switched or release is None:
        return state
    state = replace(state, pinned=update.kind == "revert", held=None)
    if state.current is None or state.current.id == release.id:  # a rollout that stopped goes on
        return replace(state, current=release)
    earlier = _reverted(state.earlier, update, state.current) if update.kind == "revert" else state.earlier
    return replace(state, current=release, former=state.current, earlier=earlier)


def _reverted(earlier: tuple[Update, ...], revert: Update, left: Release) -> tuple[Update, ...]:
    """With the update that had brought up the release which the plugin leaves."""
    step = UpdateStep.REVERTED
    for at in range(len(earlier) - 1, -1, -1):
        update = earlier[at]
        if update.step is UpdateStep.SETTLED and update.to_release is not None and update.to_release.id == left.id:
            reverted = stepped(update, step, revert.times[UpdateStep.SWITCHED.value])
            return (*earlier[:at], reverted, *earlier[at + 1 :])
    return earlier


def begins_from(state: PluginReleases, folder_content: str | None) -> Literal["folder", "current"]:
    """What a start of the orchestrator begins instances from. `folder_content`: the fingerprint of what the plugin's
    folder has now; None where that cannot be used.
    """
    if state.current is None:
        return "folder"
    if state.pinned:
        return "current"
    # What an update was rejected for is not begun, unproven, because the orchestrator was started.
    last = state.update
    if last is None or last.step is not UpdateStep.REJECTED:
        return "folder"
    rejected = last.content if last.to_release is None else last.to_release.content
    return "current" if rejected == folder_content else "folder"


@dataclass(frozen=True, slots=True)
class Resumption:
    """What becomes of the containers of an earlier orchestrator, by their generations, and of its update."""

    state: PluginReleases
    serves: tuple[int, ...]
    drains: tuple[int, ...]
    """They take no new runs, and end when those under way have."""
    removes: tuple[int, ...]


def resume(state: PluginReleases, running: Iterable[int], now: datetime) -> Resumption:
    """After the orchestrator ended, at whatever moment. `running`: the generations of the plugin's containers that run.

    An update under way goes on if an instance of its release serves; else it is REJECTED, and the former one serves.
    """
    found, update = sorted(set(running)), state.update
    if update is None:
        return Resumption(state, tuple(found), (), ())
    unproven = {*update.candidates} - {*update.switched}
    removes = {*found} & (unproven | {*update.retired})
    draining = update.draining
    if not update.ended and update.step is not UpdateStep.SWITCHED:
        reason = f"The orchestrator ended while the update was {update.step}."
        update = replace(abandoned(update, ReasonCode.STOPPED, reason, now), draining=None, draining_since=None)
        draining = None
    elif not update.ended:
        lost = [each for each in update.switched if each in update.candidates and each not in found]
        if lost:
            reason = f"The orchestrator ended during the rollout, and instance {lost[0]} of the new release with it."
            # What is left serves on.
            update = replace(abandoned(update, ReasonCode.KILLED, reason, now), draining=None, draining_since=None)
            draining = None
        else:
            update = replace(update, dropped=tuple(sorted(unproven)))
    # What does not run is begun by the start of the orchestrator.
    update = replace(update, restores=False)
    drains = {draining} & {*found} if draining is not None else set()
    serves = tuple(each for each in found if each not in removes and each not in drains)
    return Resumption(advanced(state, update), serves, tuple(drains), tuple(sorted(removes)))
