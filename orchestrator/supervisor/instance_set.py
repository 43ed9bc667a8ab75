"""InstanceSet: what is done with the instances of one plugin. Carries out what `plan` decides, at once and on the event
loop; `roster` has the instances.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Final, assert_never

from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Role
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance, new_identity
from orchestrator.supervisor.instance_driver import InstanceDriver
from orchestrator.supervisor.plan import Action, Begin, Drain, End, Forget, Return, Wanted, next_deadline, plan
from orchestrator.supervisor.preparation import Prepared, Template
from orchestrator.supervisor.roster import Placed, Roster, alive

_NOT_WANTED: Final = "It is no longer wanted: the plugin was scaled to fewer instances."


class InstanceSet:
    """`on_change` is called whenever an instance begins, is ready, ends or is removed. `waiting` returns how many runs
    wait for one.
    """

    def __init__(
        self, plugin: str, deps: SupervisorDeps, on_change: Callable[[], None], waiting: Callable[[], int]
    ) -> None:
        self.roster = Roster(plugin, deps.registry, waiting)
        """The instances. Changed here alone."""
        self._plugin = plugin
        self._deps = deps
        self._on_change = on_change
        self._wanted = Wanted()
        self._template: Template | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._advancing = False
        self._rolling = False
        """A rollout decides, and `plan` does not."""
        self._leaving: frozenset[int] = frozenset()
        """The generations of those that drained before a rollout began: they are none of its own."""
        self._closed = False
        self.caller: str | None = None
        """The name of the key whose command begins the next instances; None: a run, or the orchestrator itself."""

    @property
    def replicas(self) -> int:
        return self._wanted.replicas

    @property
    def template(self) -> Template | None:
        """What the next instances are made from."""
        return self._template

    @property
    def beginning(self) -> bool:
        """An instance is to begin, or starts."""
        return self._wanted.owed > 0 or any(not instance.ready for instance in self.roster.serving)

    # Commands

    def adopt(self, adopted: Iterable[Adopted], replicas: int, folder: Path) -> None:
        """Continue with instances that an earlier orchestrator started; the registry has them already."""
        for found in sorted(adopted, key=lambda found: found.instance.generation):
            instance = found.instance
            driver = InstanceDriver(instance, self._deps, self.advance)
            self.roster.placed.append(Placed(driver))
            prepared = Prepared((), instance.identity.content, instance.image_id or "")
            self._template = Template(instance.manifest, instance.limits, folder, prepared)
            driver.adopt(found.status)
        self._want(replicas=replicas)

    def expect(self, template: Template, replicas: int) -> None:
        """Begin none: a later command may, as many and from this."""
        self._template = template
        self._want(replicas=replicas)

    def begin(self, template: Template, replicas: int) -> None:
        """Begin as many as are missing, from this template."""
        self._template = template
        self._want(replicas=replicas, owed=max(0, replicas - len(self.roster.serving)))

    def begin_missing(self) -> None:
        """The same, from what the instances are that the set has."""
        self._template = self._made_from()
        self._want(owed=max(0, self.replicas - len(self.roster.serving)))

    def scale(self, replicas: int) -> None:
        """Begin or drain as many as this number needs; nothing begins where none serves."""
        self._template = self._made_from()
        missing = max(0, replicas - len(self.roster.serving))
        self._want(replicas=replicas, owed=missing if self.roster.serving else 0)

    def park(self, reason: str, caller: str | None = None) -> None:
        """End all. A run or a command begins them again."""
        self._template = self._made_from()
        self._end_those_that_live(Verdict(ReasonCode.PARKED, reason, caller=caller))

    def close_for(self, generation: int, verdict: Verdict) -> None:
        """Let an instance make room for another plugin: it ends by this verdict (PARKED) when its runs have ended.
        Where no other serves, those that wait now are among them; those that come later wait for the next instance.
        """
        placed = self.roster.of(generation)
        if placed.parks is None and alive(placed.instance):
            placed.parks = verdict
            others = any(each is not placed.instance for each in self.roster.serving)
            placed.last_runs = 0 if others else self.roster.waiting()
            self._place(generation, "draining", inf)
            self.advance()

    def unpark(self) -> None:
        """Begin as many as are wanted, as soon as those that were parked are removed."""
        self._want(owed=self.replicas)

    def stop_parked(self, verdict: Verdict) -> None:
        """Let no run begin those again that are parked."""
        for placed in tuple(self.roster.placed):
            placed.driver.stop_parked(verdict)

    async def end(self, verdict: Verdict) -> None:
        """End all, and return when they are removed, or could not be."""
        self._wanted = replace(self._wanted, owed=0)
        self._end_those_that_live(verdict)
        await self.torn_down()

    async def torn_down(self) -> None:
        """Returns when those that ended are removed, or could not be."""
        for driver in self.roster.drivers():
            await driver.torn_down()

    def clear(self) -> None:
        """Take those that ended out of the set. What was left behind is removed later, by `retry_removal`."""
        self._clear(lambda _: True)

    def retry_removal(self) -> None:
        """Try again to remove containers that were left behind."""
        for driver in self.roster.drivers():
            driver.retry_removal()

    async def close(self) -> None:
        """Let go of the instances without ending them: their containers stay."""
        self._closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        await asyncio.gather(*(driver.close() for driver in self.roster.drivers()))

    # A rollout decides which instances begin, serve and end, in place of `plan`

    def hold(self) -> None:
        """Leave what happens to a rollout, until `let_go`, but for the end of those that drain already."""
        if not self._rolling:
            self._leaving = frozenset(p.instance.generation for p in self.roster.placed if p.role == "draining")
        self._rolling = True
        self._wanted = replace(self._wanted, owed=0)

    def let_go(self, replicas: int) -> None:
        """`plan` decides again. Those that drain have the manifest's `update.drain` from now on."""
        self._rolling = False
        for placed in self.roster.placed:
            if placed.role == "draining" and placed.parks is None and placed.drain_until == inf:
                placed.drain_until = asyncio.get_running_loop().time() + self._wanted.drain
        self._want(replicas=replicas, owed=0)

    def begin_one(self, template: Template, role: Role, generation: int) -> None:
        """`generation`: one that the registry has allotted."""
        self._begin(template, role, generation)
        self.advance()

    def proven(self, generation: int, sentence: str) -> None:
        self.roster.of(generation).proof = sentence
        self.advance()

    def switch(self, generation: int, drains: int | None, template: Template) -> None:
        """In one step: one instance takes new runs, the other none, and further ones are made from `template`."""
        self._template = template
        self._place(generation, "serving", inf)
        if drains is not None:
            self._place(drains, "draining", inf)
        self.advance()

    def serve(self, generation: int) -> None:
        """It takes new runs."""
        self._place(generation, "serving", inf)
        self.advance()

    def drain(self, generation: int) -> None:
        """It gets no new runs. When it ends a rollout decides, or the manifest's `update.drain`."""
        until = inf if self._rolling else asyncio.get_running_loop().time() + self._wanted.drain
        self._place(generation, "draining", until)
        self.advance()

    def end_one(self, generation: int, verdict: Verdict) -> None:
        self.roster.of(generation).driver.end(verdict)

    def forget(self, generation: int) -> None:
        """It belongs to the set no longer, where it does."""
        if any(placed.instance.generation == generation for placed in self.roster.placed):
            self._forget(generation)
            self.advance()

    def advance(self) -> None:
        """Carry out what `plan` says, until it says nothing."""
        if self._closed or self._advancing:  # an action's effect called: the loop below looks again
            return
        self._advancing = True
        try:
            while actions := self._planned():
                for action in actions:
                    self._carry_out(action)
                    if isinstance(action, End):  # it may be the end of the set as a whole
                        break
        finally:
            self._advancing = False
        self._wait_for_deadline()
        self._on_change()

    # Inside

    def _planned(self) -> tuple[Action, ...]:
        if self._rolling:
            actions = plan(self._wanted, self.roster.members(), asyncio.get_running_loop().time())
            return tuple(each for each in actions if isinstance(each, End) and each.generation in self._leaving)
        for placed in self.roster.placed:
            # Whatever ended one that made room for another: it is wanted, and missing.
            if placed.parks is not None and placed.role == "draining" and not alive(placed.instance):
                self._place(placed.instance.generation, "serving", inf)
        return plan(self._wanted, self.roster.members(), asyncio.get_running_loop().time())

    def _want(self, **wanted: int) -> None:
        self._wanted = replace(self._wanted, **wanted)
        if self._template is not None:
            self._wanted = replace(self._wanted, drain=self._template.manifest.update.drain.total_seconds())
        record = self._deps.registry.get(self._plugin)
        grows = record is not None and self._wanted.replicas > record.wanted
        # In this order the plugin is not shown as degraded in between.
        if grows:
            self.advance()
        self._show_wanted()
        if not grows:
            self.advance()

    def _show_wanted(self) -> None:
        own = None if self._template is None else self._template.manifest.replicas
        self._deps.registry.set_wanted(self._plugin, self._wanted.replicas, in_manifest=own)

    def _end_those_that_live(self, verdict: Verdict) -> None:
        if not any(alive(instance) for instance in self.roster):
            return
        # They end as a whole: one that failed before is no longer missing.
        self.clear()
        for placed in tuple(self.roster.placed):
            placed.driver.end(verdict)
        for generation in set(self.roster.in_flight()) - {instance.generation for instance in self.roster}:
            self._deps.registry.forget(self._plugin, generation)

    def _made_from(self) -> Template | None:
        """The release with what an instance of it was prepared from, whatever the plugin's folder has by now."""
        template = self._template
        if template is not None and template.prepared is None:
            made = (each for each in self.roster if each.manifest is template.manifest and each.image_id)
            if (instance := next(made, None)) is not None:
                return replace(template, prepared=Prepared((), instance.identity.content, instance.image_id or ""))
        return template

    def _carry_out(self, action: Action) -> None:
        match action:
            case Begin():
                template = self._template
                assert template is not None  # noqa: S101 - commands set it before they owe an instance
                self._wanted = replace(self._wanted, owed=self._wanted.owed - 1)
                self._begin(template, "serving")
            case Return(generation):
                self._wanted = replace(self._wanted, owed=self._wanted.owed - 1)
                self._place(generation, "serving", inf)
            case Drain(generation, until):
                self._place(generation, "draining", until)
            case End(generation):
                self._end_drained(self.roster.of(generation))
            case Forget(generation):
                self._forget(generation)
            case _ as never:
                assert_never(never)

    def _end_drained(self, placed: Placed) -> None:
        verdict = placed.parks
        if verdict is None:
            placed.driver.end(Verdict(ReasonCode.STOPPED, _NOT_WANTED))
            return
        if any(alive(instance) and instance is not placed.instance for instance in self.roster):
            placed.driver.end(verdict)
        else:
            self.park(verdict.reason)

    def _place(self, generation: int, role: Role, drain_until: float) -> None:
        placed = self.roster.of(generation)
        placed.role, placed.drain_until = role, drain_until
        self._deps.registry.set_role(self._plugin, generation, role)

    def _begin(self, template: Template, role: Role, generation: int | None = None) -> None:
        deps, manifest, limits = self._deps, template.manifest, template.limits
        if role == "serving":
            self._clear(lambda ended: ended.code is ReasonCode.PARKED)
        generation = deps.registry.renew(
            self._plugin,
            keep=[instance.generation for instance in self.roster],
            role=role,
            caller=self.caller,
            generation=generation,
            version=manifest.version,
            description=manifest.description,
            limits=limits,
            tools=(),
        )
        identity = new_identity(deps.deployment, self._plugin, generation)
        instance = Instance(manifest, limits, identity, deps.run_dir / identity.instance)
        driver = InstanceDriver(instance, deps, self.advance)
        self.roster.placed.append(Placed(driver, role))
        driver.start(template.folder, template.prepared)

    def _clear(self, which: Callable[[Verdict], bool]) -> None:
        leaving = [p for p in self.roster.placed if p.instance.ended is not None and which(p.instance.ended)]
        self.roster.placed = [placed for placed in self.roster.placed if placed not in leaving]
        self.roster.earlier = [d for d in (*self.roster.earlier, *(p.driver for p in leaving)) if not d.finished]

    def _forget(self, generation: int) -> None:
        placed = self.roster.of(generation)
        self.roster.placed.remove(placed)
        if not placed.driver.finished:
            self.roster.earlier.append(placed.driver)
        self._deps.registry.forget(self._plugin, generation)

    def _wait_for_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if (deadline := next_deadline(self.roster.members())) is not None:
            self._deadline = asyncio.get_running_loop().call_at(deadline, self.advance, context=Context())
