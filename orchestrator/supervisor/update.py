"""Update: one change of a plugin's release, as a record whose steps go forward only. Pure.

A *release* is what instances are made from: a manifest, an image, a fingerprint. `rollout` decides what is done next,
`releases` has it on file.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from orchestrator.errors import TransitionError
from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import UpdatePolicy

Strategy = Literal["overlap", "replace"]
AskedStrategy = Literal["auto", "overlap", "replace"]


class UpdateStep(StrEnum):
    """How far an update has come."""

    PROPOSED = "PROPOSED"
    """Its manifest, sample calls and host are checked, its image is built. Nothing that serves has been touched."""
    BUILT = "BUILT"
    """There is a release, and a strategy."""
    STARTING = "STARTING"
    """A candidate starts; with `replace`, first an instance of the former release is drained and removed."""
    PROVING = "PROVING"
    """The candidate is INITIALIZED, and its sample calls are made."""
    SWITCHED = "SWITCHED"
    """An instance of the new release takes new runs. Further replicas follow one by one."""
    SETTLED = "SETTLED"
    """Nothing more will be done. With a reason the rollout stopped early: see `Update.reason`."""
    REJECTED = "REJECTED"
    """No instance of the new release has served; the plugin is what it was."""
    REVERTED = "REVERTED"
    """It was settled, and an operator went back to the former release."""


_S = UpdateStep
_RESTART: Final = re.compile(r"\brestart the plugin(?=[.;,]|$)|(?<=then )restart it(?=[.;,]|$)")

STEPS: Final[Mapping[UpdateStep, frozenset[UpdateStep]]] = {
    _S.PROPOSED: frozenset({_S.BUILT, _S.REJECTED}),
    # Without a candidate both lead to SETTLED: enough instances are of that release already.
    _S.BUILT: frozenset({_S.STARTING, _S.SETTLED, _S.REJECTED}),
    _S.STARTING: frozenset({_S.PROVING, _S.SETTLED, _S.REJECTED}),
    _S.PROVING: frozenset({_S.SWITCHED, _S.REJECTED}),
    _S.SWITCHED: frozenset({_S.SETTLED}),
    _S.SETTLED: frozenset({_S.REVERTED}),
    _S.REJECTED: frozenset(),
    _S.REVERTED: frozenset(),
}
ENDED_STEPS: Final = frozenset({_S.SETTLED, _S.REJECTED, _S.REVERTED})
"""Those of an update that is no longer under way."""


def check_step(current: UpdateStep, target: UpdateStep) -> None:
    """Raises `TransitionError` unless `target` may follow `current`."""
    if target not in STEPS[current]:
        allowed = ", ".join(sorted(STEPS[current])) or "nothing: it is final"
        raise TransitionError(f"an update cannot go from {current} to {target}; after {current} comes {allowed}")


class ReleaseName(msgspec.Struct, frozen=True):
    """A release, as an update names it. Two releases of one version may differ."""

    id: str
    version: str
    content: str = ""
    """The fingerprint of its configuration."""


class Update(msgspec.Struct, frozen=True):
    """One update, or one revert. Generations are those of the plugin's instances."""

    id: str
    plugin: str
    requested_at: datetime
    kind: Literal["update", "revert"] = "update"
    asked: AskedStrategy = "auto"
    step: UpdateStep = _S.PROPOSED
    times: Mapping[str, datetime] = {}
    """When each step was reached."""
    content: str | None = None
    """The fingerprint of what the plugin's folder had when it was asked for; None where that could not be used."""
    from_release: ReleaseName | None = None
    """None where nothing has been started before."""
    to_release: ReleaseName | None = None
    """None until it is BUILT."""
    strategy: Strategy | None = None
    strategy_reason: str | None = None
    replicas: int = 1
    """Instances of the new release that it brings up."""
    served_before: int = 0
    """Instances that were alive when it was BUILT."""
    drain_seconds: float = 60.0
    candidates: tuple[int, ...] = ()
    """All that it has begun, the last of which may be under way."""
    dropped: tuple[int, ...] = ()
    """Candidates that an orchestrator left unproven when it ended."""
    proving: int | None = None
    """The candidate whose proof was begun last."""
    switched: tuple[int, ...] = ()
    """Those of the new release that serve or have served, those from before the update included."""
    switch_times: tuple[datetime, ...] = ()
    """When those of them took over that it has begun."""
    draining: int | None = None
    """The former release's instance that takes no new runs, until it is removed."""
    draining_since: datetime | None = None
    retired: tuple[int, ...] = ()
    """The former release's instances that it has ended."""
    restores: bool = False
    """An instance of the former release is to begin again, in the place of one that was ended for a candidate."""
    proof: str | None = None
    """What the first candidate was proven by."""
    reason_code: ReasonCode | None = None
    reason: str | None = None

    @property
    def ended(self) -> bool:
        return self.step in ENDED_STEPS

    @property
    def candidate(self) -> int | None:
        """The one under way."""
        last = self.candidates[-1] if self.candidates else None
        return None if self.ended or last in self.switched or last in self.dropped else last

    @property
    def failed_candidate(self) -> int | None:
        """The candidate that an ended update failed for: its post-mortem says why."""
        last = self.candidates[-1] if self.candidates else None
        return last if self.ended and self.reason_code is not None and last not in self.switched else None


def proposed(
    update_id: str,
    plugin: str,
    now: datetime,
    *,
    asked: AskedStrategy = "auto",
    kind: Literal["update", "revert"] = "update",
    current: ReleaseName | None = None,
    content: str | None = None,
) -> Update:
    """A new update of a plugin whose instances are of the release `current`."""
    times = {_S.PROPOSED.value: now}
    return Update(update_id, plugin, now, kind=kind, asked=asked, times=times, content=content, from_release=current)


def stepped(update: Update, step: UpdateStep, now: datetime, **changes: Any) -> Update:
    """The update at its next step. Raises `TransitionError`."""
    check_step(update.step, step)
    return replace(update, step=step, times={**update.times, step.value: now}, **changes)


def remedied(reason: str, kind: Literal["update", "revert"]) -> str:
    """The reason of an end of an instance as that of an update: once it is fixed, the next step is another update."""
    return _RESTART.sub(f"{kind} again", reason)


def step_sentence(update: Update) -> str:
    """How far it has come, for events and the log."""
    to = f" to {update.to_release.version}" if update.to_release is not None else ""
    text = f"{update.kind} {update.id}{to}: {update.step}"
    match update.step:
        case UpdateStep.BUILT:
            text += f" ({update.strategy}: {update.strategy_reason})"
        case UpdateStep.STARTING | UpdateStep.PROVING if update.candidates:
            text += f" instance {update.candidates[-1]}"
        case UpdateStep.SWITCHED:
            text += f" to instance {update.switched[-1]}: {update.proof}"
    return f"{text}: {update.reason}" if update.reason else text


def choose_strategy(
    policy: UpdatePolicy,
    asked: AskedStrategy = "auto",
    *,
    gpu_missing: str | None = None,
    parks: Sequence[str] = (),
    memory_needed: int = 0,
    memory_free: int | None = None,
) -> tuple[Strategy, str]:
    """The strategy, and why, as a phrase.

    `asked` by the operator goes before the manifest's. `gpu_missing`: why there is no GPU for a second instance; None
    where there is one, or none is needed. `parks`: idle plugins that would make room for it all the same. Memory in
    bytes: the limit of one instance, and what is available on the host, None where that is not known.
    """
    if asked != "auto":
        return asked, "the operator asked for it"
    if policy.strategy != "auto":
        return policy.strategy, "the manifest says so (`update.strategy`)"
    if gpu_missing is not None and not parks:
        return "replace", f"there is no GPU for a second instance: {gpu_missing}"
    if memory_free is not None and memory_free < memory_needed:
        needed, free = format_size(memory_needed), format_size(memory_free)
        return "replace", f"a second instance may take {needed} (`limits.memory`), and the host has {free} available"
    if gpu_missing is not None:
        are = "is" if len(parks) == 1 else "are"
        return "overlap", f"{' and '.join(parks)} {are} idle, and parked for a second instance"
    return "overlap", "there is room for a second instance"
