"""RolloutDriver: carries out what `rollout` decides about an update that is BUILT. Each action is on file before it
takes effect, so that an orchestrator that is killed at any moment leaves one release that serves, and says which.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, assert_never

from msgspec.structs import replace

from orchestrator.formatting import format_duration
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.samples import Sample
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.candidate import Candidate, template_of
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.plan import End, Forget
from orchestrator.supervisor.preparation import Template
from orchestrator.supervisor.proof import prove, samples_of
from orchestrator.supervisor.release_store import ReleaseFile, ReleaseStoreError
from orchestrator.supervisor.releases import Release, advanced, with_proposed
from orchestrator.supervisor.rollout import (
    Action,
    BeginCandidate,
    BeginFormer,
    Drain,
    Finish,
    Prove,
    Switch,
    broken_off,
    left_over,
    next_action,
    recorded,
    wakes_at,
)
from orchestrator.supervisor.start_verdict import is_defect, verdict_of_preparation, verdict_of_rollout
from orchestrator.supervisor.update import Update, UpdateStep, step_sentence

_WRITE_AGAIN: Final = 5.0  # seconds until another try to write the file
_BY_ITS_START: Final = (
    "Proven by its start alone: the sample calls in the folder are those of the release that is left."
)
_log = logging.getLogger(__name__)


class RolloutDriver:
    """`on_switch` is called with the manifest of the release whose instance takes new runs, `on_change` whenever an
    update has come further.
    """

    def __init__(
        self,
        plugin: str,
        deps: SupervisorDeps,
        instances: InstanceSet,
        file: ReleaseFile,
        *,
        on_switch: Callable[[Manifest], None],
        on_change: Callable[[], None],
    ) -> None:
        self._plugin = plugin
        self._deps = deps
        self._set = instances
        self._roster = instances.roster
        self._file = file
        self._on_switch = on_switch
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._proof: asyncio.Task[None] | None = None
        self._new: Candidate | None = None
        self.newest_seen = 0
        """The generation of the newest instance whose release is on file, or need not be."""

    def look(self) -> None:
        """Something has changed that may be waited for."""
        self._changed.set()

    async def close(self) -> None:
        """Leave the instances as they are."""
        if self._proof is not None:
            self._proof.cancel()
            await asyncio.gather(self._proof, return_exceptions=True)

    # The rollout

    async def run(self, new: Candidate | None = None) -> None:
        """Until the update has ended, and what begins again for it has begun. `new`: what is rolled out; None where an
        earlier orchestrator began it.
        """
        self._new = new
        self._set.hold()
        while True:
            self._changed.clear()
            update = self._file.state.update
            assert update is not None  # noqa: S101 - there is one as long as this runs
            action = next_action(update, self._roster.members(), utc_now())
            if action is not None:
                await self._take(update, action)
            elif update.ended:
                break
            else:
                await self._wait(wakes_at(update))
        if new is not None and update.step is UpdateStep.SETTLED and update.reason_code is None:
            # Also where nothing had to begin: `replicas`, `spread`, `idle` and `update` make no other release.
            self._on_switch(new.template.manifest)
            self._set.expect(new.template, self._set.replicas)
        self._let_go()

    async def break_off(self) -> None:
        """End an update in the middle, for a defect was met: whatever serves goes on to serve, a candidate ends, and
        what made room for it serves or begins again.
        """
        try:
            if (update := self._file.state.under_way) is not None:
                await self._end_by(update, verdict_of_rollout())
            update = self._file.state.update
            if update is not None and update.restores:
                await self._take(update, BeginFormer())
        finally:
            self._let_go()

    async def _end_by(self, update: Update, verdict: Verdict) -> None:
        rest = left_over(update, self._roster.members())
        await self.write(broken_off(update, rest, verdict.code, verdict.reason, utc_now()))
        rest = left_over(update, self._roster.members())  # to write takes its time
        for generation in rest.serve:
            self._set.serve(generation)
        for generation in rest.drain:
            self._set.drain(generation)
        for generation in rest.end:
            self._set.end_one(generation, verdict)

    def _let_go(self) -> None:
        template = self._set.template
        wanted = self._set.replicas if template is None else self._file.state.replicas_of(template.manifest)
        self._set.let_go(wanted)

    async def _wait(self, until: datetime | None) -> None:
        seconds = None if until is None else max(0.0, (until - utc_now()).total_seconds())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _take(self, update: Update, action: Action) -> None:
        begins = isinstance(action, BeginCandidate | BeginFormer)
        generation = self._deps.registry.allot(self._plugin) if begins else None
        template = None
        if begins or isinstance(action, Switch):
            try:
                template = await self._template(update, former=isinstance(action, BeginFormer))
            except (InstanceEndedError, OSError) as error:  # its image or its models were removed
                if update.ended:
                    await self.write(replace(update, restores=False))
                else:
                    await self._end_by(update, verdict_of_preparation(error))
                return
        if isinstance(action, BeginFormer) and generation is not None:  # what the plugin is from then on was decided
            self.newest_seen = generation
        after = recorded(update, action, utc_now(), generation)
        await self.write(after)
        await self._carry_out(after, action, template, generation)

    async def _carry_out(
        self, update: Update, action: Action, template: Template | None, generation: int | None
    ) -> None:
        match action:
            case BeginCandidate() | BeginFormer():
                assert template is not None and generation is not None  # noqa: S101, PT018 - `_take` has them
                former = isinstance(action, BeginFormer)
                self._set.begin_one(template, "serving" if former else "candidate", generation)
            case Prove():
                self._proof = asyncio.create_task(self._prove(action.generation), name=f"proof {self._plugin}")
            case Switch():
                assert template is not None  # noqa: S101 - `_take` has it
                await self._switch(update, action, template)
            case Drain():
                self._set.drain(action.generation)
            case End():
                self._end(update, action.generation)
            case Forget():
                self._set.forget(action.generation)
            case Finish():
                pass
            case _ as never:
                assert_never(never)

    def _end(self, update: Update, generation: int) -> None:
        running = sum(each.in_flight for each in self._roster.members() if each.generation == generation)
        self._set.end_one(generation, Verdict(ReasonCode.STOPPED, _replaced(update, running)))

    async def _switch(self, update: Update, action: Switch, template: Template) -> None:
        found = next(each for each in self._roster.members() if each.generation == action.generation)
        if not found.alive:  # it ended while that was written: whoever serves goes on
            await self.write(replace(update, draining=None, draining_since=None))
            return
        self._on_switch(template.manifest)
        self._set.switch(action.generation, action.drains, template)

    async def _prove(self, generation: int) -> None:
        try:
            verdict = await self._unproven(generation)
        except Exception as error:  # noqa: BLE001 - else the update would stay PROVING for ever
            if is_defect(error):
                _log.exception("%s: a defect in the orchestrator", self._plugin)
            verdict = verdict_of_preparation(error)
        if verdict is not None:
            self._set.end_one(generation, verdict)

    async def _unproven(self, generation: int) -> Verdict | None:
        """Why the candidate is not proven; None where it is."""
        instance = self._roster.of(generation).instance
        proof = await prove(self._deps.sandbox, instance, await self._samples())
        if proof.verdict is None:
            update = self._file.state.update
            reverts = update is not None and update.kind == "revert"
            self._set.proven(generation, _BY_ITS_START if reverts else proof.sentence)
        return proof.verdict

    async def _samples(self) -> Sequence[Sample]:
        if self._new is not None:
            return self._new.samples
        update = self._file.state.update
        if update is None or update.kind == "revert":
            return ()
        template = self._set.template
        return () if template is None else await asyncio.to_thread(samples_of, template.folder)

    async def _template(self, update: Update, *, former: bool) -> Template:
        """Raises `InstanceEndedError`."""
        wanted = update.from_release if former else update.to_release
        new = self._new
        if new is not None and wanted is not None and new.release.id == wanted.id:
            return new.template
        release = self._file.state.named(wanted)
        if release is None:
            which = wanted.version if wanted is not None else "the former release"
            raise InstanceEndedError(Verdict(ReasonCode.IMAGE_MISSING, f"Nothing is on file of {which}; restart it."))
        return await template_of(self._deps, release, Path(release.folder))

    # The file

    async def write(self, update: Update, release: Release | None = None) -> None:
        """Returns when it is on the disk, however long that takes: nothing may happen before."""
        before = self._file.state.update
        while True:
            try:
                await self._file.change(
                    lambda state: (
                        with_proposed(state, update, release) if release is not None else advanced(state, update)
                    )
                )
                break
            except ReleaseStoreError as error:
                _log.error("%s: the %s %s waits: %s", self._plugin, update.kind, update.id, error)
                await asyncio.sleep(_WRITE_AGAIN)
        if before is None or before.step is not update.step or before.id != update.id:
            self.say(update)
        self._on_change()

    def say(self, update: Update) -> None:
        """An event for each step."""
        sentence = step_sentence(update)
        self._deps.registry.note(self._plugin, sentence, update.reason_code, caller=self._set.caller)
        level = logging.WARNING if update.reason_code is not None else logging.INFO
        _log.log(level, "%s: %s", self._plugin, sentence, extra={"plugin": self._plugin})


def _replaced(update: Update, in_flight: int) -> str:
    to = update.to_release.version if update.to_release is not None else "another release"
    sentence = f"The {update.kind} {update.id} replaced it by {to}"
    if not in_flight:
        return f"{sentence}."
    drain = format_duration(update.drain_seconds)
    return f"{sentence}, and gave its runs {drain} to end (`update.drain`), which this one did not. Call again."


def utc_now() -> datetime:
    return datetime.now(UTC)
