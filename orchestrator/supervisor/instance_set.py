"""InstanceSet: the instances of one plugin. Carries out what `plan` decides, at once and on the event loop."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Final, assert_never

from plugin_runtime.shared.limits import runs_let_in

from orchestrator.errors import StaleGenerationError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import EffectiveLimits, Role
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.bring_up import Prepared
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance, new_identity
from orchestrator.supervisor.instance_driver import InstanceDriver
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
from orchestrator.supervisor.releases import release_id

_NOT_WANTED: Final = "It is no longer wanted: the plugin was scaled to fewer instances."


@dataclass(frozen=True, slots=True)
class Template:
    """What instances are made from. A release on file is one that is prepared."""

    manifest: Manifest
    limits: EffectiveLimits
    folder: Path
    prepared: Prepared | None = None
    """None: each instance prepares itself."""


@dataclass(eq=False, slots=True)
class _Placed:
    """An instance in the set."""

    driver: InstanceDriver
    role: Role = "serving"
    drain_until: float = inf
    proof: str | None = None
    """What it was proven by, before it took runs."""
    parks: Verdict | None = None
    """Its end, where it makes room for another plugin once its runs have ended."""
    last_runs: int = 0
    """Runs that it takes before that."""
    instance: Instance = field(init=False)
    _release: str = ""

    def __post_init__(self) -> None:
        self.instance = self.driver.instance

    @property
    def release(self) -> str:
        """The id of its release; empty while it is not prepared."""
        content, image = self.instance.identity.content, self.instance.image_id
        if not self._release and content and image:
            self._release = release_id(content, image)
        return self._release


class InstanceSet:
    """`on_change` is called whenever an instance begins, is ready, ends or is removed. `waiting` returns how many runs
    wait for one.
    """

    def __init__(
        self, plugin: str, deps: SupervisorDeps, on_change: Callable[[], None], waiting: Callable[[], int]
    ) -> None:
        self._plugin = plugin
        self._deps = deps
        self._on_change = on_change
        self._waiting = waiting
        self._placed: list[_Placed] = []
        """Oldest first."""
        self._earlier: list[InstanceDriver] = []
        """Of instances that are in the set no longer, until nothing remains to be done for them."""
        self._wanted = Wanted()
        self._template: Template | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._advancing = False
        self._rolling = False
        """A rollout decides, and `plan` does not."""
        self._leaving: frozenset[int] = frozenset()
        """The generations of those that drained before a rollout began: they are none of its own."""
        self._closed = False

    # Reading

    def __iter__(self) -> Iterator[Instance]:
        """Oldest first; those that ended are among them until they are replaced."""
        return (placed.instance for placed in self._placed)

    @property
    def newest(self) -> Instance | None:
        """A candidate only where there is no other."""
        placed = [placed for placed in self._placed if placed.role != "candidate"] or self._placed
        return placed[-1].instance if placed else None

    @property
    def replicas(self) -> int:
        return self._wanted.replicas

    @property
    def template(self) -> Template | None:
        """What the next instances are made from."""
        return self._template

    @property
    def serving(self) -> list[Instance]:
        """Those that take runs, or will."""
        return [placed.instance for placed in self._placed if placed.role == "serving" and _alive(placed.instance)]

    @property
    def parked(self) -> bool:
        """None lives, and the first that a run comes for begins them again."""
        cause = self.cause
        return not (self.serving or self.closing) and cause is not None and cause.code is ReasonCode.PARKED

    @property
    def draining(self) -> bool:
        """One lives that takes no new runs."""
        return "draining" in [placed.role for placed in self._placed if _alive(placed.instance)]

    @property
    def closing(self) -> bool:
        """One makes room for another plugin as soon as its runs have ended: then a run may begin the set again."""
        return any(placed.parks is not None and _alive(placed.instance) for placed in self._placed)

    @property
    def beginning(self) -> bool:
        """An instance is to begin, or starts."""
        return self._wanted.owed > 0 or any(not instance.ready for instance in self.serving)

    @property
    def removed(self) -> bool:
        """No container of any is left."""
        return all(driver.removed for driver in self._drivers())

    @property
    def tokens(self) -> set[str]:
        """Of instances that have a container, or may get one."""
        # A container that the engine made without an answer appears when its instance has long ended: nobody has it.
        drivers = [p.driver for p in self._placed if _alive(p.instance) or not p.driver.removed]
        return {driver.instance.identity.instance for driver in (*drivers, *self._ending())}

    @property
    def cause(self) -> Verdict | None:
        """Why none serves: the first that failed, else the first that ended, but for parked ones, which say nothing
        against the others. None where there never was one.
        """
        shown = [placed.instance for placed in self._placed if placed.role != "candidate"]
        ended = [instance.ended for instance in shown if instance.ended is not None]
        failed = [verdict for verdict in ended if verdict.code.final_state is PluginLifecycleState.FAILED]
        missed = [verdict for verdict in ended if verdict.code is not ReasonCode.PARKED]
        return next(iter(failed or missed or ended), None)

    def free_instance(self, tool: str) -> Instance | None:
        """The one that takes the next run, of this tool, which counts as taken; None while none can."""
        if self._template is None:
            return None
        # With every run: those alone, and of them alone what counts.
        taking = {
            p.instance.generation: p for p in self._placed if p.instance.ready and (p.role == "serving" or p.parks)
        }
        in_flight = self._in_flight()
        members = [
            Member(
                generation,
                Phase.READY,
                placed.role,
                in_flight.get(generation, 0),
                last_runs=self._last_runs(placed) if placed.parks else None,
                used_at=placed.instance.used_at,
                concurrency=placed.instance.limits.concurrency,
            )
            for generation, placed in taking.items()
        ]
        generation = least_loaded(members, _let_in(taking.values(), tool))
        if generation is None:
            return None
        chosen = taking[generation]
        if chosen.last_runs:
            chosen.last_runs -= 1
        return chosen.instance

    def driver_of(self, token: str) -> InstanceDriver | None:
        """`token`: the `instance` of an identity."""
        return next((p.driver for p in self._placed if p.instance.identity.instance == token), None)

    def members(self) -> tuple[Member, ...]:
        """As `plan` and a rollout look at them."""
        in_flight = self._in_flight()
        return (
            *(Member(driver.instance.generation, Phase.ENDED, "draining") for driver in self._ending()),
            *(self._member(placed, in_flight.get(placed.instance.generation, 0)) for placed in self._placed),
        )

    def instance_with(self, token: str) -> Instance | None:
        """As long as its container may be there, also where it is in the set no longer."""
        return next((d.instance for d in self._drivers() if d.instance.identity.instance == token), None)

    # Commands

    def adopt(self, adopted: Iterable[Adopted], replicas: int, folder: Path) -> None:
        """Continue with instances that an earlier orchestrator started; the registry has them already."""
        for found in sorted(adopted, key=lambda found: found.instance.generation):
            instance = found.instance
            driver = InstanceDriver(instance, self._deps, self.advance)
            self._placed.append(_Placed(driver))
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
        self._want(replicas=replicas, owed=max(0, replicas - len(self.serving)))

    def begin_missing(self) -> None:
        """The same, from what the instances are that the set has."""
        self._template = self._made_from()
        self._want(owed=max(0, self.replicas - len(self.serving)))

    def scale(self, replicas: int) -> None:
        """Begin or drain as many as this number needs; nothing begins where none serves."""
        self._template = self._made_from()
        missing = max(0, replicas - len(self.serving))
        self._want(replicas=replicas, owed=missing if self.serving else 0)

    def park(self, reason: str) -> None:
        """End all. A run or a command begins them again."""
        self._template = self._made_from()
        self._end_those_that_live(Verdict(ReasonCode.PARKED, reason))

    def close_for(self, generation: int, verdict: Verdict) -> None:
        """Let an instance make room for another plugin: it ends by this verdict (PARKED) when its runs have ended.
        Where no other serves, those that wait now are among them; those that come later wait for the next instance.
        """
        placed = self._of(generation)
        if placed.parks is None and _alive(placed.instance):
            placed.parks = verdict
            placed.last_runs = 0 if any(each is not placed.instance for each in self.serving) else self._waiting()
            self._place(generation, "draining", inf)
            self.advance()

    def unpark(self) -> None:
        """Begin as many as are wanted, as soon as those that were parked are removed."""
        self._want(owed=self.replicas)

    def stop_parked(self, verdict: Verdict) -> None:
        """Let no run begin those again that are parked."""
        for placed in tuple(self._placed):
            placed.driver.stop_parked(verdict)

    async def end(self, verdict: Verdict) -> None:
        """End all, and return when they are removed, or could not be."""
        self._wanted = replace(self._wanted, owed=0)
        self._end_those_that_live(verdict)
        await self.torn_down()

    async def torn_down(self) -> None:
        """Returns when those that ended are removed, or could not be."""
        for driver in self._drivers():
            await driver.torn_down()

    def clear(self) -> None:
        """Take those that ended out of the set. What was left behind is removed later, by `retry_removal`."""
        self._clear(lambda _: True)

    def retry_removal(self) -> None:
        """Try again to remove containers that were left behind."""
        for driver in self._drivers():
            driver.retry_removal()

    async def close(self) -> None:
        """Let go of the instances without ending them: their containers stay."""
        self._closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        await asyncio.gather(*(driver.close() for driver in self._drivers()))

    # A rollout decides which instances begin, serve and end, in place of `plan`

    def hold(self) -> None:
        """Leave what happens to a rollout, until `let_go`, but for the end of those that drain already."""
        if not self._rolling:
            self._leaving = frozenset(p.instance.generation for p in self._placed if p.role == "draining")
        self._rolling = True
        self._wanted = replace(self._wanted, owed=0)

    def let_go(self, replicas: int) -> None:
        self._rolling = False
        self._want(replicas=replicas, owed=0)

    @property
    def next_generation(self) -> int:
        """That of the instance that begins next."""
        record = self._deps.registry.get(self._plugin)
        return 1 if record is None else record.highest_generation + 1

    def begin_one(self, template: Template, role: Role) -> None:
        self._begin(template, role)
        self.advance()

    def proven(self, generation: int, sentence: str) -> None:
        self._of(generation).proof = sentence
        self.advance()

    def switch(self, generation: int, drains: int | None, template: Template) -> None:
        """In one step: one instance takes new runs, the other none, and further ones are made from `template`."""
        self._template = template
        self._place(generation, "serving", inf)
        if drains is not None:
            self._place(drains, "draining", inf)
        self.advance()

    def drain(self, generation: int) -> None:
        """It gets no new runs. When it ends a rollout decides, or the manifest's `update.drain`."""
        until = inf if self._rolling else asyncio.get_running_loop().time() + self._wanted.drain
        self._place(generation, "draining", until)
        self.advance()

    def end_one(self, generation: int, verdict: Verdict) -> None:
        self._of(generation).driver.end(verdict)

    def forget(self, generation: int) -> None:
        """It belongs to the set no longer, where it does."""
        if any(placed.instance.generation == generation for placed in self._placed):
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
            actions = plan(self._wanted, self.members(), asyncio.get_running_loop().time())
            return tuple(each for each in actions if isinstance(each, End) and each.generation in self._leaving)
        for placed in self._placed:
            # Whatever ended one that made room for another: it is wanted, and missing.
            if placed.parks is not None and placed.role == "draining" and not _alive(placed.instance):
                self._place(placed.instance.generation, "serving", inf)
        return plan(self._wanted, self.members(), asyncio.get_running_loop().time())

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
        if not any(_alive(instance) for instance in self):
            return
        # They end as a whole: one that failed before is no longer missing.
        self.clear()
        for placed in tuple(self._placed):
            placed.driver.end(verdict)
        for generation in self._recorded() - {instance.generation for instance in self}:
            self._deps.registry.forget(self._plugin, generation)

    def _made_from(self) -> Template | None:
        """The release with what an instance of it was prepared from, whatever the plugin's folder has by now."""
        template = self._template
        if template is not None and template.prepared is None:
            made = (each for each in self if each.manifest is template.manifest and each.image_id)
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
                self._end_drained(self._of(generation))
            case Forget(generation):
                self._forget(generation)
            case _ as never:
                assert_never(never)

    def _end_drained(self, placed: _Placed) -> None:
        verdict = placed.parks
        if verdict is None:
            placed.driver.end(Verdict(ReasonCode.STOPPED, _NOT_WANTED))
            return
        if any(_alive(instance) and instance is not placed.instance for instance in self):
            placed.driver.end(verdict)
        else:
            self.park(verdict.reason)

    def _place(self, generation: int, role: Role, drain_until: float) -> None:
        placed = self._of(generation)
        placed.role, placed.drain_until = role, drain_until
        self._deps.registry.set_role(self._plugin, generation, role)

    def _begin(self, template: Template, role: Role) -> None:
        deps, manifest, limits = self._deps, template.manifest, template.limits
        if role == "serving":
            self._clear(lambda ended: ended.code is ReasonCode.PARKED)
        generation = deps.registry.renew(
            self._plugin,
            keep=[instance.generation for instance in self],
            role=role,
            version=manifest.version,
            description=manifest.description,
            limits=limits,
            tools=(),
        )
        identity = new_identity(deps.deployment, self._plugin, generation)
        instance = Instance(manifest, limits, identity, deps.run_dir / identity.instance)
        driver = InstanceDriver(instance, deps, self.advance)
        self._placed.append(_Placed(driver, role))
        driver.start(template.folder, template.prepared)

    def _clear(self, which: Callable[[Verdict], bool]) -> None:
        leaving = [p for p in self._placed if p.instance.ended is not None and which(p.instance.ended)]
        self._placed = [placed for placed in self._placed if placed not in leaving]
        self._earlier = [d for d in (*self._earlier, *(p.driver for p in leaving)) if not d.finished]

    def _forget(self, generation: int) -> None:
        placed = self._of(generation)
        self._placed.remove(placed)
        if not placed.driver.finished:
            self._earlier.append(placed.driver)
        self._deps.registry.forget(self._plugin, generation)

    def _wait_for_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if (deadline := next_deadline(self.members())) is not None:
            self._deadline = asyncio.get_running_loop().call_at(deadline, self.advance, context=Context())

    def _member(self, placed: _Placed, in_flight: int) -> Member:
        instance, ended = placed.instance, placed.instance.ended
        return Member(
            instance.generation,
            _phase(placed.driver),
            placed.role,
            in_flight,
            placed.drain_until,
            last_runs=self._last_runs(placed) if placed.parks else None,
            used_at=instance.used_at,
            release=placed.release,
            proof=placed.proof,
            reason_code=None if ended is None else ended.code,
            reason=None if ended is None else ended.reason,
            concurrency=instance.limits.concurrency,
        )

    def _last_runs(self, placed: _Placed) -> int:
        return min(placed.last_runs, self._waiting())

    def _ending(self) -> Iterator[InstanceDriver]:
        """Of instances that are in the set no longer, while they still have their container and GPUs."""
        return (driver for driver in self._earlier if not driver.torn_down_or_left)

    def _recorded(self) -> set[int]:
        return set(self._in_flight())

    def _in_flight(self) -> dict[int, int]:
        record = self._deps.registry.get(self._plugin)
        return {} if record is None else {each.generation: each.in_flight for each in record.instances}

    def _of(self, generation: int) -> _Placed:
        for placed in self._placed:
            if placed.instance.generation == generation:
                return placed
        raise StaleGenerationError(f"{self._plugin}: the set has no instance {generation}")

    def _drivers(self) -> list[InstanceDriver]:
        return [*self._earlier, *(placed.driver for placed in self._placed)]


def _let_in(taking: Iterable[_Placed], tool: str) -> int:
    """Runs of this tool that are in an instance for each that executes: of a batched one more than a batch."""
    for placed in taking:
        if (known := placed.instance.tools.get(tool)) is not None:
            batch = known.get("batch")
            return 1 if batch is None else runs_let_in(1, batch["max_size"])
    return 1


def _alive(instance: Instance) -> bool:
    return instance.ended is None


def _phase(driver: InstanceDriver) -> Phase:
    if driver.instance.ended is not None:
        return Phase.REMOVED if driver.torn_down_or_left else Phase.ENDED
    return Phase.READY if driver.instance.ready else Phase.STARTING
