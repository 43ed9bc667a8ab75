"""GpuPlanner: what it does of what `parking` decides, over leases and plugins in memory."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from unit.gpus.looks import GIB, gpu, mig_instance, probed

from orchestrator.gpus import GpuDemand, GpuInventory, GpuProblem, Grant, LeaseTable
from orchestrator.gpus.inventory import FaultKind, GpuDevice, GpuFault
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.supervisor import gpu_planner, parking
from orchestrator.supervisor.container_policy import InstanceIdentity
from orchestrator.supervisor.gpu_planner import GpuPlanner
from orchestrator.supervisor.instance import InstanceEndedError


@dataclass(eq=False)
class FakePlugin:
    """A plugin with one instance at a time, which gives its GPUs back as soon as it has no run."""

    world: "World"
    name: str
    manifest: Manifest
    demand: GpuDemand
    runs_waiting: int = 0
    waiting_since: float = field(default_factory=time.monotonic)
    asked: bool = False
    unsettled: bool = False
    updating: bool = False
    recent_runs: float = 1.0
    start_seconds: float = 0.01
    generation: int = 0
    in_flight: int = 0
    role: str = "serving"
    closed: list[str] = field(default_factory=list)
    instance: Any = None

    @property
    def record(self) -> Any:
        known = SimpleNamespace(role=self.role, in_flight=self.in_flight, ready_tick=0.0)
        return SimpleNamespace(
            start_seconds=self.start_seconds,
            in_flight=self.in_flight,
            instance=lambda generation: known if generation == self.generation else None,
        )

    def instance_with(self, token: str) -> Any:
        return self.instance if self.instance is not None and self.instance.token == token else None

    def close_for(self, generation: int, reason: str) -> None:
        assert generation == self.generation
        self.closed.append(reason)
        self.role = "draining"
        self.run_left()

    def run_left(self) -> None:
        if self.role == "draining" and self.in_flight == 0:
            self.end()

    def end(self) -> None:
        """Its container is removed."""
        token = f"{self.name}-{self.generation}"
        self.instance = None
        self.world.leases.release(token, time.monotonic())
        self.world.planner.changed()

    def start(self) -> asyncio.Task[Grant]:
        self.generation += 1
        self.role = "serving"
        token = f"{self.name}-{self.generation}"
        self.instance = SimpleNamespace(
            token=token,
            generation=self.generation,
            manifest=self.manifest,
            ended=None,
            ready=True,
            granted_at=0.0,
            used_at=None,
            torn_down=asyncio.Event(),
        )
        identity = InstanceIdentity("d", self.name, self.generation, token)
        acquired = self.world.planner.acquire(identity, self.manifest, self.demand, self.world.said.append)
        return asyncio.create_task(acquired)


class World:
    def __init__(self, *devices: GpuDevice) -> None:
        self.devices = devices
        self.problem: GpuProblem | None = None
        self.reads = 0
        self.said: list[str] = []
        self.withheld: dict[str, str] = {}
        self.leases = LeaseTable()
        self.plugins: dict[str, FakePlugin] = {}
        self.planner = GpuPlanner(self.leases, self.read, self.withheld, time.monotonic)
        self.planner.meet(self.plugins.get)

    async def read(self) -> GpuInventory:
        self.reads += 1
        await asyncio.sleep(0)
        inventory = probed(*self.devices, at=time.monotonic(), problem=self.problem)
        self.leases.observe(inventory, time.monotonic())
        return inventory

    def add(self, name: str, demand: GpuDemand | None = None, *, keep: bool = False, **facts: Any) -> FakePlugin:
        manifest = Manifest.model_validate(
            {
                "name": name,
                "version": "1",
                "description": "Reads.",
                "entrypoint": "a.b:C",
                "requires_gpu": True,
                "idle": {"keep": keep},
            }
        )
        plugin = self.plugins[name] = FakePlugin(self, name, manifest, demand or GpuDemand(), **facts)
        return plugin

    async def up(self, name: str, demand: GpuDemand | None = None, **facts: Any) -> FakePlugin:
        plugin = self.add(name, demand, **facts)
        await asyncio.wait_for(plugin.start(), 5)
        return plugin

    def check(self) -> None:
        for each in self.leases.devices():
            assert len(each.claims) <= 1 or all(claim.sharing == "shared" for claim in each.claims)
            total = each.device.memory_total if each.device else None
            assert total is None or sum(claim.memory or 0 for claim in each.claims) <= total


@pytest.fixture(autouse=True)
async def hurried(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """And nothing goes on once nobody waits."""
    monkeypatch.setattr(parking, "MIN_RESIDENCE", 0.01)
    monkeypatch.setattr(gpu_planner, "LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(gpu_planner, "DRAIN_INTERVAL", 0.005)
    yield
    for _ in range(100):
        if not [task for task in asyncio.all_tasks() if task.get_name() == "plan of the GPUs"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it plans although nobody waits")


async def refused(plugin: FakePlugin, code: ReasonCode) -> str:
    with pytest.raises(InstanceEndedError) as ended:
        await asyncio.wait_for(plugin.start(), 5)
    assert ended.value.verdict.code is code
    return ended.value.verdict.reason


async def until_said(world: World, sentence: str) -> None:
    async with asyncio.timeout(5):
        while sentence not in world.said:
            await asyncio.sleep(0.005)


async def test_an_idle_one_is_closed_and_the_gpu_granted_once_it_is_free() -> None:
    world = World(gpu(0))
    old = await world.up("old")
    new = world.add("new", runs_waiting=1)
    grant = await asyncio.wait_for(new.start(), 5)
    assert grant.uuids == ("GPU-0",)
    assert old.closed == ["It was parked to make room for new on GPU 0. The next run starts it again."]
    assert "old is parked for it" in world.said


async def test_a_busy_one_is_waited_for_and_closed_once_the_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(gpu(0))
    old = await world.up("old", in_flight=2)
    new = world.add("new", asked=True)
    task = new.start()
    await until_said(world, "old has it, and executes 2 runs")
    assert old.closed == []
    assert [(each["plugin"], each["behind"]) for each in world.planner.report()] == [("new", ["old"])]
    monkeypatch.setattr(parking, "PATIENCE", 0.0)
    world.planner.changed()
    async with asyncio.timeout(5):
        while not old.closed:
            await asyncio.sleep(0.005)
    assert not task.done()
    old.in_flight = 0
    old.run_left()
    assert (await asyncio.wait_for(task, 5)).uuids == ("GPU-0",)
    assert world.planner.report() == []


async def test_nobody_is_parked_for_one_that_nobody_waits_for() -> None:
    """It is parked itself; where it is kept, it is waited for by its operator; a further replica is busy."""
    world = World(gpu(0), gpu(1))
    old = await world.up("old")
    other = await world.up("other")
    reason = await refused(world.add("new"), ReasonCode.PARKED)
    assert "held by the plugin old" in reason and "Nobody waits for it" in reason
    assert old.closed == []
    assert (await asyncio.wait_for(world.add("kept", keep=True).start(), 5)).plugin == "kept"
    assert len(old.closed) + len(other.closed) == 1


async def test_an_update_makes_room_as_an_operators_command() -> None:
    """Its candidate waits for the GPU that its predecessor left, and is not parked."""
    world = World(gpu(0))
    old = await world.up("old")
    assert (await asyncio.wait_for(world.add("new", updating=True).start(), 5)).plugin == "new"
    assert len(old.closed) == 1


async def test_where_nothing_may_be_parked_all_that_are_kept_are_named() -> None:
    world = World(gpu(0), gpu(1))
    await world.up("old", keep=True)
    await world.up("older", keep=True)
    reason = await refused(world.add("new", runs_waiting=3), ReasonCode.GPU_BUSY)
    assert reason.endswith("Never parked for another (`idle.keep`): old, older.")
    assert "held by the plugin older" in reason


@pytest.mark.parametrize("how", ["withheld", "left behind"])
async def test_what_an_instance_left_behind_has_is_not_waited_for(how: str) -> None:
    world = World(gpu(0))
    old = await world.up("old")
    if how == "withheld":
        world.withheld["old-1"] = "It could not be stopped."
    else:
        old.instance.torn_down.set()
    await refused(world.add("new", runs_waiting=1), ReasonCode.GPU_BUSY)
    assert old.closed == []


async def test_one_that_is_proven_or_changed_is_not_parked() -> None:
    """An update's candidate, and one whose command is under way."""
    world = World(gpu(0))
    old = await world.up("old")
    old.role = "candidate"
    new = world.add("new", runs_waiting=1)
    await refused(new, ReasonCode.GPU_BUSY)
    old.role, old.unsettled = "serving", True
    task = new.start()
    await until_said(world, "old has it")
    assert old.closed == []
    old.unsettled = False
    world.planner.changed()
    assert (await asyncio.wait_for(task, 5)).plugin == "new"


async def test_a_gpu_on_which_others_took_memory_is_left_for_another() -> None:
    """The lease table knows what is in use now; the plan knows what is promised."""
    world = World(gpu(0, total=16 * GIB), gpu(1, total=24 * GIB))
    shared = GpuDemand(1, 4 * GIB, "shared")
    await world.up("old", shared)
    world.devices = (gpu(0, total=16 * GIB, used=15 * GIB), gpu(1, total=24 * GIB))
    assert (await asyncio.wait_for(world.add("new", shared, asked=True).start(), 5)).uuids == ("GPU-1",)
    world.devices = (gpu(0, total=16 * GIB, used=15 * GIB), gpu(1, total=24 * GIB, used=23 * GIB))
    reason = await refused(world.add("newer", shared), ReasonCode.GPU_BUSY)
    assert "1.0 GiB of its 16.0 GiB free" in reason


async def test_a_host_out_of_order_is_the_answer_to_one_that_comes() -> None:
    """One that waits bears it for a while: looks fail now and then."""
    world = World(gpu(0))
    old = await world.up("old", in_flight=1)
    waiting = world.add("new", runs_waiting=1).start()
    await until_said(world, "old has it, and executes 1 run")
    world.problem = GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The driver hangs.")
    assert await refused(world.add("late", runs_waiting=1), ReasonCode.GPU_DRIVER_ERROR) == "The driver hangs."
    assert not waiting.done()
    world.problem = None
    old.in_flight = 0
    assert (await asyncio.wait_for(waiting, 5)).plugin == "new"


async def test_a_problem_that_stays_is_the_answer_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_planner, "_PROBLEM_PATIENCE", 0.05)
    world = World(gpu(0))
    await world.up("old", in_flight=1)
    waiting = world.add("new", runs_waiting=1).start()
    await until_said(world, "old has it, and executes 1 run")
    world.problem = GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The driver hangs.")
    with pytest.raises(InstanceEndedError, match="hangs"):
        await asyncio.wait_for(waiting, 5)


async def test_one_that_needs_a_gpu_that_is_lost_is_told_which() -> None:
    world = World(gpu(0), gpu(1))
    await world.up("old", in_flight=1)
    both = world.add("both", GpuDemand(2), runs_waiting=1).start()
    await until_said(world, "old has it, and executes 1 run")
    world.devices = (gpu(0), replace(gpu(1), fault=GpuFault(FaultKind.GPU_LOST, "GPU is lost")))
    with pytest.raises(InstanceEndedError, match="GPU is lost"):
        await asyncio.wait_for(both, 5)


async def test_one_that_is_cancelled_waits_no_longer() -> None:
    """Nobody is closed for it."""
    world = World(gpu(0))
    old = await world.up("old", in_flight=1)
    task = world.add("new", runs_waiting=1).start()
    await until_said(world, "old has it, and executes 1 run")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.planner.report() == []
    old.in_flight = 0
    await asyncio.sleep(0.05)
    assert old.closed == []


async def test_a_defect_ends_all_that_wait() -> None:
    """Else they would wait for ever."""
    world = World(gpu(0))
    plugin = world.add("new")
    world.leases.grant = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(plugin.start(), 5)


async def test_memory_that_is_not_given_back_is_waited_for_as_long_as_runs_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_planner, "_DRAIN_TIMEOUT", 0.05)
    monkeypatch.setattr(gpu_planner, "_UNSURE_TIMEOUT", 0.05)
    world = World(gpu(0))
    old = await world.up("old")
    world.devices = (gpu(0, used=8 * GIB),)
    old.end()
    assert "cannot be known" in await refused(world.add("hurried", asked=True), ReasonCode.GPU_BUSY)
    task = world.add("new", runs_waiting=1).start()
    await asyncio.sleep(0.2)
    assert not task.done()
    world.devices = (gpu(0),)
    assert (await asyncio.wait_for(task, 5)).plugin == "new"


async def test_looks_are_not_made_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a child process."""
    world = World(gpu(0))
    await world.up("old", in_flight=1)
    task = world.add("new", runs_waiting=1).start()
    await until_said(world, "old has it, and executes 1 run")
    monkeypatch.setattr(gpu_planner, "LOOK_INTERVAL", 60.0)
    await asyncio.sleep(0.05)
    reads = world.reads
    for _ in range(50):
        world.planner.changed()
        await asyncio.sleep(0)
    assert world.reads == reads
    task.cancel()


async def test_mig_instances_are_granted_one_by_one() -> None:
    world = World(gpu(0, mig_enabled=True), mig_instance(0, 0), mig_instance(0, 1))
    for name in ("one", "two"):
        await world.up(name)
    third = await asyncio.wait_for(world.add("three", asked=True).start(), 5)
    assert third.uuids[0].startswith("MIG-0-")
    await refused(world.add("both", GpuDemand(2), asked=True), ReasonCode.GPU_BUSY)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_no_gpu_is_granted_twice_and_everybody_is_answered(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts, runs, ends, cancels in any order, on GPUs of unlike kinds."""
    monkeypatch.setattr(parking, "PATIENCE", 0.05)
    chosen = random.Random(seed)
    world = World(gpu(0, total=16 * GIB), gpu(1, total=48 * GIB), mig_instance(2, 0))
    demands = [
        GpuDemand(),
        GpuDemand(2),
        GpuDemand(1, 24 * GIB),
        GpuDemand(1, 4 * GIB, "shared"),
        GpuDemand(1, 6 * GIB, "shared", "pack"),
        GpuDemand(1, 400 * GIB),
    ]
    for number, demand in enumerate(demands):
        world.add(f"p{number}", demand, keep=number == 0)
    tasks: dict[str, asyncio.Task[Grant]] = {}
    outcomes: list[str] = []
    for _ in range(300):
        plugin = chosen.choice(list(world.plugins.values()))
        task = tasks.get(plugin.name)
        if task is not None and task.done():
            tasks.pop(plugin.name)
            outcomes.append("granted" if not task.cancelled() and task.exception() is None else "not")
            if outcomes[-1] == "not":
                plugin.end()
        elif task is not None and chosen.random() < 0.1:
            task.cancel()
        elif plugin.instance is None and task is None:
            plugin.runs_waiting, plugin.waiting_since = chosen.choice([0, 1, 5]), time.monotonic()
            tasks[plugin.name] = plugin.start()
        elif plugin.instance is not None and task is None:
            plugin.runs_waiting = 0
            plugin.in_flight = chosen.choice([0, 0, 1])
            plugin.run_left()
            if plugin.instance is not None and chosen.random() < 0.2:
                plugin.end()
            world.planner.changed()
        await asyncio.sleep(chosen.choice([0, 0, 0.001]))
        world.check()
    for plugin in world.plugins.values():
        plugin.in_flight = 0
        plugin.run_left()
    for task in tasks.values():
        with suppress(InstanceEndedError, asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
    world.check()
    assert outcomes.count("granted") > 20
