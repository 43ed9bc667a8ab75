"""What the API says of an update. Pure."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel

from orchestrator.health.health_model import PostMortemReport, post_mortem_report
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import PostMortem
from orchestrator.supervisor.releases import Release
from orchestrator.supervisor.update import AskedStrategy, Strategy, Update, UpdateStep


class ReleaseReport(BaseModel):
    """What instances are made from; two releases of one version may differ in everything else."""

    id: str
    version: str


class ReleasesReport(BaseModel):
    """What is on file of a plugin's releases."""

    current: ReleaseReport | None
    """Of the instances that serve, or have last."""
    revert: ReleaseReport | None
    """What `revert` goes back to; null where there is nothing."""


class UpdateReport(BaseModel):
    """An update or a revert. All fields are always there."""

    id: str
    plugin: str
    kind: Literal["update", "revert"]
    step: UpdateStep
    ended: bool
    """Whether nothing more will be done: SETTLED, REJECTED or REVERTED."""
    requested_at: AwareDatetime
    step_times: dict[str, AwareDatetime]
    """When each step was reached, in their order."""
    strategy_asked: AskedStrategy
    strategy: Strategy | None
    strategy_reason: str | None
    from_release: ReleaseReport | None
    to_release: ReleaseReport | None
    replicas: int
    """Instances of the new release that it brings up."""
    replicas_updated: int
    """Those that have taken over."""
    switch_times: list[AwareDatetime]
    """When each of those took over that it has begun, in their order."""
    candidate: int | None
    """The generation of the instance that starts or is proven."""
    draining: int | None
    """The generation of the former release's instance that takes no new runs."""
    proof: str | None
    """What the first instance was proven by."""
    reason_code: ReasonCode | None
    """Why it was REJECTED; with SETTLED, why the rollout stopped before its last instance."""
    reason: str | None
    post_mortem: PostMortemReport | None
    """Of the candidate that it failed for."""


def releases_report(current: Release | None, revert: Release | None) -> ReleasesReport:
    return ReleasesReport(current=_named(current), revert=_named(revert))


def _named(release: Release | None) -> ReleaseReport | None:
    return None if release is None else ReleaseReport(id=release.id, version=release.name.version)


def update_report(update: Update, post_mortem: PostMortem | None = None) -> UpdateReport:
    """`post_mortem`: of `update.failed_candidate`, from the history."""
    old, new = update.from_release, update.to_release
    return UpdateReport(
        id=update.id,
        plugin=update.plugin,
        kind=update.kind,
        step=update.step,
        ended=update.ended,
        requested_at=update.requested_at,
        step_times=dict(update.times),
        strategy_asked=update.asked,
        strategy=update.strategy,
        strategy_reason=update.strategy_reason,
        from_release=None if old is None else ReleaseReport(id=old.id, version=old.version),
        to_release=None if new is None else ReleaseReport(id=new.id, version=new.version),
        replicas=update.replicas,
        replicas_updated=len(update.switched),
        switch_times=list(update.switch_times),
        candidate=update.candidate,
        draining=update.draining,
        proof=update.proof,
        reason_code=update.reason_code,
        reason=update.reason,
        post_mortem=None if post_mortem is None else post_mortem_report(post_mortem),
    )
