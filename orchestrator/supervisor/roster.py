"""Roster: the instances of one plugin, each with its place among them. Everybody reads it, `InstanceSet` alone changes
it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

from plugin_runtime.shared.limits import runs_let_in

from orchestrator.errors import StaleGenerationError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import PluginRegistry, Role
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.instance_driver import InstanceDriver
from orchestrator.supervisor.plan import Member, Phase, least_loaded
from orchestrator.supervisor.releases import release_id


@dataclass(eq=False, slots=True)
class Placed:
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


class Roster:
    """`waiting` returns how many runs wait for one of the instances."""

    def __init__(self, plugin: str, registry: PluginRegistry, waiting: Callable[[], int]) -> None:
        self.plugin = plugin
        self._registry = registry
        self.waiting = waiting
        self.placed: list[Placed] = []
        """Oldest first."""
        self.earlier: list[InstanceDriver] = []
        """Of instances that are in the set no longer, until nothing remains to be done for them."""

    def __iter__(self) -> Iterator[Instance]:
        """Oldest first; those that ended are among them until they are replaced."""
        return (placed.instance for placed in self.placed)

    @property
    def newest(self) -> Instance | None:
        """A candidate only where there is no other."""
        placed = [placed for placed in self.placed if placed.role != "candidate"] or self.placed
        return placed[-1].instance if placed else None

    @property
    def serving(self) -> list[Instance]:
        """Those that take runs, or will."""
        return [placed.instance for placed in self.placed if placed.role == "serving" and alive(placed.instance)]

    @property
    def parked(self) -> bool:
        """None lives, and the first that a run comes for begins them again."""
        cause = self.cause
        return not (self.serving or self.closing) and cause is not None and cause.code is ReasonCode.PARKED

    @property
    def draining(self) -> bool:
        """One lives that takes no new runs."""
        return "draining" in [placed.role for placed in self.placed if alive(placed.instance)]

    @property
    def closing(self) -> bool:
        """One makes room for another plugin as soon as its runs have ended: then a run may begin the set again."""
        return any(placed.parks is not None and alive(placed.instance) for placed in self.placed)

    @property
    def removed(self) -> bool:
        """No container of any is left."""
        return all(driver.removed for driver in self.drivers())

    @property
    def tokens(self) -> set[str]:
        """Of instances that have a container, or may get one."""
        # A container that the engine made without an answer appears when its instance has long ended: nobody has it.
        drivers = [p.driver for p in self.placed if alive(p.instance) or not p.driver.removed]
        return {driver.instance.identity.instance for driver in (*drivers, *self.ending())}

    @property
    def cause(self) -> Verdict | None:
        """Why none serves: the first that failed, else the first that ended, but for parked ones, which say nothing
        against the others. None where there never was one.
        """
        shown = [placed.instance for placed in self.placed if placed.role != "candidate"]
        ended = [instance.ended for instance in shown if instance.ended is not None]
        failed = [verdict for verdict in ended if verdict.code.final_state is PluginLifecycleState.FAILED]
        missed = [verdict for verdict in ended if verdict.code is not ReasonCode.PARKED]
        return next(iter(failed or missed or ended), None)

    def free_instance(self, tool: str) -> Instance | None:
        """The one that takes the next run, of this tool, which counts as taken; None while none can."""
        # With every run: those alone, and of them alone what counts.
        taking = {
            placed.instance.generation: placed
            for placed in self.placed
            if placed.instance.ready and (placed.role == "serving" or placed.parks)
        }
        in_flight = self.in_flight()
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
        return next((p.driver for p in self.placed if p.instance.identity.instance == token), None)

    def members(self) -> tuple[Member, ...]:
        """As `plan` and a rollout look at them."""
        in_flight = self.in_flight()
        return (
            *(Member(driver.instance.generation, Phase.ENDED, "draining") for driver in self.ending()),
            *(self._member(placed, in_flight.get(placed.instance.generation, 0)) for placed in self.placed),
        )

    def instance_with(self, token: str) -> Instance | None:
        """As long as its container may be there, also where it is in the set no longer."""
        return next((d.instance for d in self.drivers() if d.instance.identity.instance == token), None)

    def ending(self) -> Iterator[InstanceDriver]:
        """Of instances that are in the set no longer, while they still have their container and GPUs."""
        return (driver for driver in self.earlier if not driver.torn_down_or_left)

    def in_flight(self) -> dict[int, int]:
        """By generation, of all that the registry has."""
        record = self._registry.get(self.plugin)
        return {} if record is None else {each.generation: each.in_flight for each in record.instances}

    def of(self, generation: int) -> Placed:
        """Raises `StaleGenerationError`."""
        for placed in self.placed:
            if placed.instance.generation == generation:
                return placed
        raise StaleGenerationError(f"{self.plugin}: the set has no instance {generation}")

    def drivers(self) -> list[InstanceDriver]:
        """Of all, those included that are in the set no longer."""
        return [*self.earlier, *(placed.driver for placed in self.placed)]

    def _member(self, placed: Placed, in_flight: int) -> Member:
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

    def _last_runs(self, placed: Placed) -> int:
        return min(placed.last_runs, self.waiting())


def _let_in(taking: Iterable[Placed], tool: str) -> int:
    """Runs of this tool that are in an instance for each that executes: of a batched one more than a batch."""
    for placed in taking:
        if (known := placed.instance.tools.get(tool)) is not None:
            batch = known.get("batch")
            return 1 if batch is None else runs_let_in(1, batch["max_size"])
    return 1


def alive(instance: Instance) -> bool:
    return instance.ended is None


def _phase(driver: InstanceDriver) -> Phase:
    if driver.instance.ended is not None:
        return Phase.REMOVED if driver.torn_down_or_left else Phase.ENDED
    return Phase.READY if driver.instance.ready else Phase.STARTING
