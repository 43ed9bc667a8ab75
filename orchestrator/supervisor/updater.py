"""Updater: one plugin's updates, one at a time. Carries out what `rollout` decides: each action is on file before it
takes effect, so that an orchestrator that is killed at any moment leaves one release that serves, and says which.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, assert_never

import msgspec

from orchestrator.formatting import format_duration
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.loader.samples import Sample
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.candidate import Candidate, from_file, from_folder, strategy_for, template_of
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.plan import End, Forget
from orchestrator.supervisor.preparation import Template, content_of
from orchestrator.supervisor.proof import prove, samples_of
from orchestrator.supervisor.releases import (
    PluginReleases,
    Release,
    ReleaseFile,
    ReleaseStoreError,
    advanced,
    require_allowed,
    revert_target,
    started,
    with_proposed,
)
from orchestrator.supervisor.rollout import (
    Action,
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
from orchestrator.supervisor.start_verdict import is_defect, verdict_of_preparation
from orchestrator.supervisor.update import (
    AskedStrategy,
    Update,
    UpdateStep,
    proposed,
    step_sentence,
)

_WRITE_AGAIN: Final = 5.0  # seconds until another try to write the file

_BY_ITS_START: Final = (
    "Proven by its start alone: the sample calls in the folder are those of the release that is left."
)

_log = logging.getLogger(__name__)


class Updater:
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
        self._task: asyncio.Task[None] | None = None
        self._proof: asyncio.Task[None] | None = None
        self._new: Candidate | None = None
        """None where an earlier orchestrator began the update."""
        self.newest_seen = 0
        """The generation of the newest instance whose release is on file, or need not be."""

    @property
    def under_way(self) -> Update | None:
        return self._file.state.under_way

    @property
    def running(self) -> bool:
        """An update is under way, or an instance that it ended is to begin again."""
        return self._task is not None and not self._task.done()

    @property
    def _switching(self) -> bool:
        """What serves is of its release, or is replaced: its own steps have it on file."""
        update = self._file.state.update
        return self.running and update is not None and update.step is UpdateStep.SWITCHED

    @property
    def brings_up(self) -> bool:
        """An instance that takes runs may come of an update: one that serves nothing waits for it."""
        update = self._file.state.update
        return self.running and update is not None and update.step is not UpdateStep.PROPOSED

    async def settled(self) -> None:
        """Returns when an update that has ended leaves the instances alone: one may be about to begin again."""
        if self._task is not None and self.under_way is None:
            await asyncio.wait({self._task})

    def look(self) -> None:
        """Something has changed that may be waited for."""
        self._changed.set()

    # Commands

    async def begin(self, kind: Literal["update", "revert"], asked: AskedStrategy, plugin: DiscoveredPlugin) -> Update:
        """Begin an update to what the plugin's folder has, or back to the former release. It goes on by itself. Raises
        `UpdateRefusedError`, `ReleaseStoreError`.
        """
        require_allowed(kind, self._file.state)
        await self.settled()
        found = await asyncio.to_thread(self._deps.loader.reload, plugin)
        content = await asyncio.to_thread(content_of, found, self._deps)
        state = self._file.state
        former = revert_target(state, self._roster.members()) if kind == "revert" else None
        current = None if state.current is None else state.current.name
        update = proposed(
            secrets.token_hex(4), self._plugin, _now(), asked=asked, kind=kind, current=current, content=content
        )
        await self._file.change(lambda state: with_proposed(state, update))
        self._say(update)
        making = from_file(self._deps, former, plugin.folder) if former is not None else from_folder(self._deps, plugin)
        self._start(self._bring_up(update, making))
        return update

    def resume(self) -> None:
        """Go on with what an earlier orchestrator began; its instances are adopted."""
        update = self._file.state.update
        if update is not None and not update.ended:
            self._start(self._roll())

    async def stop(self, reason: str) -> None:
        """End an update that is under way, and what it does for its end: the instances end too, by their owner."""
        await self._cancel()
        self._set.let_go(self._set.replicas)
        now = _now()

        def ended(state: PluginReleases) -> PluginReleases:
            if state.update is None:
                return state
            update = abandoned(state.update, ReasonCode.STOPPED, reason, now)
            return advanced(state, msgspec.structs.replace(update, restores=False))

        try:
            await self._file.change(ended)
        except ReleaseStoreError as error:
            _log.warning("%s: %s", self._plugin, error)
        self._on_change()

    def unrecorded(self) -> Release | None:
        """The release of an instance that became ready without an update, where it may not be on file: the next start
        begins it, and a revert leaves it.
        """
        ready = [instance for instance in self._roster.serving if instance.ready and instance.image_id]
        newest = max(ready, key=lambda instance: instance.generation, default=None)
        template = self._set.template
        if newest is None or template is None or newest.generation <= self.newest_seen or self._switching:
            return None
        self.newest_seen = newest.generation
        content, image_id = newest.identity.content, newest.image_id or ""
        return Release.of(newest.manifest, content=content, image_id=image_id, folder=template.folder)

    async def record(self, release: Release) -> None:
        """Have it on file."""
        try:
            await self._file.change(lambda state: started(state, release))
        except ReleaseStoreError as error:
            _log.warning("%s: a revert will not know this release: %s", self._plugin, error)

    async def close(self) -> None:
        """Leave everything as it is, for the next orchestrator."""
        await self._cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work, name=f"update {self._plugin}")
        self._task.add_done_callback(self._log_defect)

    def _log_defect(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("%s: a defect in the orchestrator; a stop ends the update", self._plugin, exc_info=error)

    # Inside: the new release

    async def _bring_up(self, update: Update, making: Coroutine[Any, Any, Candidate]) -> None:
        try:
            new = self._new = await making
            strategy = await strategy_for(self._deps, new, update.asked, alone=not self._roster.serving)
        except Exception as error:  # noqa: BLE001 - else the update would stay PROPOSED for ever
            if is_defect(error):
                _log.exception("%s: a defect in the orchestrator", self._plugin)
            verdict = verdict_of_preparation(error)
            await self._write(abandoned(update, verdict.code, verdict.reason, _now()))
            return
        manifest = new.template.manifest
        self._set.hold()
        with_release = built(
            update,
            new.release.name,
            strategy,
            self._roster.members(),
            _now(),
            replicas=self._replicas(manifest),
            drain=manifest.update.drain,
        )
        await self._write(with_release, new.release)
        await self._roll()

    # Inside: the rollout

    async def _roll(self) -> None:
        self._set.hold()
        while True:
            self._changed.clear()
            update = self._file.state.update
            assert update is not None  # noqa: S101 - there is one as long as this runs
            action = next_action(update, self._roster.members(), _now())
            if action is not None:
                await self._take(update, action)
            elif update.ended:
                break
            else:
                await self._wait(wakes_at(update))
        new = self._new
        if new is not None and update.step is UpdateStep.SETTLED and update.reason_code is None:
            # Also where nothing had to begin: `replicas`, `spread`, `idle` and `update` make no other release.
            self._on_switch(new.template.manifest)
            self._set.expect(new.template, self._set.replicas)
        template = self._set.template
        self._set.let_go(self._replicas(None if template is None else template.manifest))

    async def _wait(self, until: datetime | None) -> None:
        seconds = None if until is None else max(0.0, (until - _now()).total_seconds())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _take(self, update: Update, action: Action) -> None:
        begins = isinstance(action, BeginCandidate | BeginFormer)
        generation = self._set.next_generation if begins else None
        template = None
        if begins or isinstance(action, Switch):
            try:
                template = await self._template(update, former=isinstance(action, BeginFormer))
            except (InstanceEndedError, OSError) as error:
                await self._give_up(update, verdict_of_preparation(error))
                return
        if isinstance(action, BeginFormer):  # what the plugin is from then on was decided
            self.newest_seen = self._set.next_generation
        after = recorded(update, action, _now(), generation)
        await self._write(after)
        await self._carry_out(after, action, template)

    async def _carry_out(self, update: Update, action: Action, template: Template | None) -> None:
        match action:
            case BeginCandidate():
                assert template is not None  # noqa: S101 - `_take` has it
                self._set.begin_one(template, "candidate")
            case BeginFormer():
                assert template is not None  # noqa: S101 - `_take` has it
                self._set.begin_one(template, "serving")
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
            await self._write(msgspec.structs.replace(update, draining=None, draining_since=None))
            return
        self._on_switch(template.manifest)
        self._set.switch(action.generation, action.drains, template)

    async def _prove(self, generation: int) -> None:
        instance = next((each for each in self._roster if each.generation == generation), None)
        if instance is None:
            return
        try:
            proof = await prove(self._deps.sandbox, instance, await self._samples())
        except Exception as error:  # noqa: BLE001 - else the update would stay PROVING for ever
            if is_defect(error):
                _log.exception("%s: a defect in the orchestrator", self._plugin)
            self._set.end_one(generation, verdict_of_preparation(error))
            return
        update = self._file.state.update
        if proof.verdict is not None:
            self._set.end_one(generation, proof.verdict)
        elif update is not None and update.kind == "revert":
            self._set.proven(generation, _BY_ITS_START)
        else:
            self._set.proven(generation, proof.sentence)

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

    async def _give_up(self, update: Update, verdict: Verdict) -> None:
        """Its release can be begun no longer: its image or its models were removed."""
        now = _now()
        ended = abandoned(update, verdict.code, verdict.reason, now)
        await self._write(msgspec.structs.replace(ended, restores=False))

    def _replicas(self, manifest: Manifest | None) -> int:
        scaled = self._file.state.replicas
        if scaled is not None:
            return scaled
        return self._set.replicas if manifest is None else manifest.replicas

    # Inside: the file

    async def _write(self, update: Update, release: Release | None = None) -> None:
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
            self._say(update)
        self._on_change()

    def _say(self, update: Update) -> None:
        """An event for each step."""
        sentence = step_sentence(update)
        self._deps.registry.note(self._plugin, sentence, update.reason_code)
        level = logging.WARNING if update.reason_code is not None else logging.INFO
        _log.log(level, "%s: %s", self._plugin, sentence, extra={"plugin": self._plugin})

    async def _cancel(self) -> None:
        tasks = [task for task in (self._task, self._proof) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _replaced(update: Update, in_flight: int) -> str:
    to = update.to_release.version if update.to_release is not None else "another release"
    sentence = f"The {update.kind} {update.id} replaced it by {to}"
    if not in_flight:
        return f"{sentence}."
    drain = format_duration(update.drain_seconds)
    return f"{sentence}, and gave its runs {drain} to end (`update.drain`), which this one did not. Call again."


def _now() -> datetime:
    return datetime.now(UTC)
