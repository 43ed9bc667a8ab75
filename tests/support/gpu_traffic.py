"""A simulated host: callers, plugins that share too few GPUs, and the real plan of who makes room. No clock, no I/O."""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.gpus import GpuDemand
from orchestrator.supervisor.demand import RecentUse
from orchestrator.supervisor.parking import Gpu, Impossible, Need, Park, Start, Tenant, Wait, plan_room


@dataclass(frozen=True, slots=True)
class Plugin:
    """Seconds: of its start, of one run, of its stop until the GPU's memory is back."""

    name: str
    start: float = 5.0
    run: float = 0.1
    stop: float = 0.5
    concurrency: int = 1
    demand: GpuDemand = field(default_factory=GpuDemand)
    keep: bool = False


@dataclass(slots=True)
class _Instance:
    plugin: Plugin
    generation: int
    uuids: tuple[str, ...]
    granted_at: float
    state: str = "starting"
    ready_at: float | None = None
    used_at: float | None = None
    in_flight: int = 0
    last_ticket: int | None = None
    """Closed: of the plugin's queue it takes those up to this one."""


@dataclass(slots=True)
class _Run:
    ticket: int
    caller: int
    came_at: float


@dataclass(slots=True)
class Outcome:
    """`came`, `served`: the plugins of the runs, in the order of their arrival and of their execution."""

    answered: int = 0
    refused: int = 0
    starts: int = 0
    parked_busy: int = 0
    parked_young: int = 0
    parked: int = 0
    double_grants: int = 0
    seconds: float = 0.0
    came: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)


class Host:
    """Each caller makes the runs of its list one after the other (a closed loop): the next one `pause` seconds after
    the answer to the last. `arrivals` come by the clock instead, whatever has been answered: (second, plugin).
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        plugins: Sequence[Plugin],
        callers: Sequence[Sequence[str]] = (),
        *,
        arrivals: Sequence[tuple[float, str]] = (),
        pause: float = 0.0,
    ) -> None:
        self._gpus = gpus
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._queues: dict[str, deque[_Run]] = {plugin.name: deque() for plugin in plugins}
        self._uses = {plugin.name: RecentUse() for plugin in plugins}
        self._instances: list[_Instance] = []
        self._callers = [iter(caller) for caller in callers]
        self._pause = pause
        self._events: list[tuple[float, int, str, object]] = []
        self._numbers = itertools.count()
        self._tickets = itertools.count(1)
        self._generations: Counter[str] = Counter()
        self._changed = False
        self._looks: set[float] = set()
        self.now = 0.0
        self.outcome = Outcome(waits={plugin.name: [] for plugin in plugins})
        for number in range(len(callers)):
            self._at(0.0, "call", number)
        for second, name in arrivals:
            self._at(second, "arrive", name)

    def run(self) -> Outcome:
        """Until all runs are answered or refused."""
        while self._events:
            self.now, _, kind, subject = heapq.heappop(self._events)
            getattr(self, f"_{kind}")(subject)
            if self._changed and (not self._events or self._events[0][0] > self.now):  # all of one instant at once
                self._changed = False
                self._decide()
        self.outcome.seconds = self.now
        return self.outcome

    def _at(self, when: float, kind: str, subject: object) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), kind, subject))

    # What happens

    def _call(self, caller: int) -> None:
        name = next(self._callers[caller], None)
        if name is not None:
            self._admit(name, caller)

    def _arrive(self, name: str) -> None:
        self._admit(name, -1)

    def _admit(self, name: str, caller: int) -> None:
        self.outcome.came.append(name)
        self._uses[name].count(self.now)
        self._queues[name].append(_Run(next(self._tickets), caller, self.now))
        self._changed |= len(self._queues[name]) == 1
        self._dispatch(name)

    def _ready(self, instance: _Instance) -> None:
        instance.state, instance.ready_at = "ready", self.now
        self._changed = True
        self._dispatch(instance.plugin.name)

    def _done(self, ended: tuple[_Instance, _Run]) -> None:
        instance, run = ended
        instance.in_flight -= 1
        instance.used_at = self.now
        self._answered(run)
        self.outcome.answered += 1
        self._changed |= not self._queues[instance.plugin.name] and instance.in_flight == 0
        self._dispatch(instance.plugin.name)

    def _answered(self, run: _Run) -> None:
        if run.caller >= 0:
            self._at(self.now + self._pause, "call", run.caller)

    def _released(self, instance: _Instance) -> None:
        self._instances.remove(instance)
        self._changed = True

    def _look(self, _: object) -> None:
        self._changed = True

    # What the orchestrator does

    def _dispatch(self, name: str) -> None:
        queue = self._queues[name]
        for instance in self._instances:
            if instance.plugin.name != name or instance.ready_at is None or instance.state == "stopping":
                continue
            while queue and instance.in_flight < instance.plugin.concurrency:
                if instance.last_ticket is not None and queue[0].ticket > instance.last_ticket:
                    break
                run = queue.popleft()
                self.outcome.waits[name].append(self.now - run.came_at)
                instance.in_flight += 1
                self.outcome.served.append(name)
                self._at(self.now + instance.plugin.run, "done", (instance, run))
            if instance.last_ticket is not None and instance.in_flight == 0:
                instance.state = "stopping"
                self._at(self.now + instance.plugin.stop, "released", instance)

    def _tenant(self, instance: _Instance) -> Tenant:
        plugin = instance.plugin
        return Tenant(
            plugin.name,
            instance.generation,
            instance.uuids,
            None if plugin.demand.exclusive else plugin.demand.memory,
            "closing" if instance.last_ticket is not None else "starting" if instance.ready_at is None else "ready",
            instance.in_flight,
            len(self._queues[plugin.name]),
            instance.granted_at,
            instance.ready_at,
            instance.used_at,
            plugin.start,
            self._uses[plugin.name].value(self.now),
            plugin.keep,
        )

    def _needs(self) -> list[Need]:
        served = {each.plugin.name for each in self._instances if each.last_ticket is None}
        return [
            Need(name, self._plugins[name].demand, queue[0].came_at, len(queue), self._plugins[name].start)
            for name, queue in self._queues.items()
            if queue and name not in served and not self._finishing(name, queue[0].ticket)
        ]

    def _finishing(self, name: str, ticket: int) -> bool:
        """A closed instance will still execute the first that waits."""
        return any(
            each.plugin.name == name and each.last_ticket is not None and ticket <= each.last_ticket
            for each in self._instances
        )

    def _decide(self) -> None:
        tenants = [self._tenant(instance) for instance in self._instances]
        for need, answer in plan_room(self._gpus, tenants, self._needs(), self.now):
            if isinstance(answer, Start):
                self._start(need, answer.uuids)
            elif isinstance(answer, Park):
                for holder in answer.holders:
                    self._close(holder)
            elif isinstance(answer, Wait):
                if answer.until < float("inf"):
                    assert answer.until > self.now, (need, answer)
                    if answer.until not in self._looks:
                        self._looks.add(answer.until)
                        self._at(answer.until, "look", None)
            elif isinstance(answer, Impossible):
                queue = self._queues[need.plugin]
                self.outcome.refused += len(queue)
                for run in queue:
                    self._answered(run)
                queue.clear()

    def _start(self, need: Need, uuids: tuple[str, ...]) -> None:
        plugin = self._plugins[need.plugin]
        self._generations[plugin.name] += 1
        instance = _Instance(plugin, self._generations[plugin.name], uuids, self.now)
        self._instances.append(instance)
        self.outcome.starts += 1
        self.outcome.started.append(plugin.name)
        self._check_grants()
        self._at(self.now + plugin.start, "ready", instance)

    def _check_grants(self) -> None:
        for gpu in self._gpus:
            demands = [each.plugin.demand for each in self._instances if gpu.uuid in each.uuids]
            alone = len(demands) > 1 and any(demand.exclusive for demand in demands)
            over = gpu.memory is not None and sum(demand.memory or 0 for demand in demands) > gpu.memory
            self.outcome.double_grants += alone or over

    def _close(self, holder: tuple[str, int]) -> None:
        instance = next(each for each in self._instances if (each.plugin.name, each.generation) == holder)
        assert instance.last_ticket is None
        queue = self._queues[instance.plugin.name]
        self.outcome.parked += 1
        self.outcome.parked_busy += instance.in_flight > 0 or bool(queue)
        self.outcome.parked_young += instance.ready_at is None or self.now < self._tenant(instance).resident_until
        instance.last_ticket = queue[-1].ticket if queue else 0
        self._dispatch(instance.plugin.name)


def best_swaps(order: Sequence[str], slots: int) -> int:
    """The fewest starts by which these runs can be executed in this order where `slots` plugins fit at a time: Belady's
    choice, which knows the future, parks the one that is needed again last.
    """
    later: dict[str, deque[int]] = {}
    for index, name in enumerate(order):
        later.setdefault(name, deque()).append(index)
    resident: set[str] = set()
    starts = 0
    for name in order:
        later[name].popleft()
        if name in resident:
            continue
        starts += 1
        if len(resident) == slots:
            resident.remove(max(resident, key=lambda each: (later[each][0] if later[each] else len(order), each)))
        resident.add(name)
    return starts
