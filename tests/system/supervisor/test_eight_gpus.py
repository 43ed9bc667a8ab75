"""One plugin on all GPUs of a simulated host: ten thousand steps of whatever may happen, in any order."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness
from support.waiting import PATIENCE, eventually

from orchestrator.containers.memory.container import MemoryContainer
from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import InstanceRecord, LifecycleEvent, PluginRecord
from orchestrator.sandbox.call import Outcome, ToolCall
from orchestrator.supervisor import gpu_planner
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor

STEPS = 10_000
GPUS = 8
BETWEEN_LULLS = 250
"""Steps after which everything under way is waited for."""
BETWEEN_ORCHESTRATORS = 1000
"""Steps after which another orchestrator takes over."""
WEIGHTS = {
    "run": 70,
    "wait": 14,
    "kill": 7,
    "start": 3,
    "scale": 3,
    "lose": 1,
    "give_back": 1,
    "stop": 0.3,
    "restart": 0.3,
    "park": 0.3,
}
"""How often each step is taken. To start an instance costs ten times what a run does."""
ANSWERS = {Outcome.OK, Outcome.QUEUE_FULL, Outcome.PLUGIN_FAILED, Outcome.UNAVAILABLE}
BEST_FIRST = ("RUNNING", "INITIALIZED", "LOADED")


class World:
    """Steps in random order, against the real orchestrator; what holds after each of them.

    What is true is known from elsewhere than from what is checked: containers from the engine, the order of ends from
    the events, calls from the tool.
    """

    def __init__(self, harness: Harness, seed: int) -> None:
        self.harness = harness
        self.chosen = random.Random(seed)
        self.calls: Counter[int] = Counter()
        """Number of a run → how often its tool was called."""
        self.runs: dict[int, asyncio.Task[Any]] = {}
        self.under_way: set[asyncio.Task[Any]] = set()
        self.answers: Counter[Outcome] = Counter()
        self.steps: Counter[str] = Counter()
        self.commands: set[asyncio.Task[Any]] = set()
        self.ends: list[int] = []
        """Generations, in the order of their ends."""
        self.devices = {each.uuid: each for each in harness.gpus.devices}

    async def read(self, number: int) -> int:
        """The plugin's tool."""
        self.calls[number] += 1
        await asyncio.sleep(self.chosen.choice((0, 0, 0.001)))
        return number

    async def open(self) -> None:
        await self.harness.open()
        self.harness.registry.subscribe(self._note_end)

    @property
    def record(self) -> PluginRecord:
        record = self.harness.registry.get("reader")
        assert record is not None
        return record

    @property
    def supervisor(self) -> PluginSupervisor:
        assert self.harness.app is not None
        found = self.harness.app.state.context.fleet.get("reader")
        assert isinstance(found, PluginSupervisor)
        return found

    @property
    def containers(self) -> list[MemoryContainer]:
        return list(self.harness.engine._containers.values())

    # Steps

    async def step(self, number: int) -> None:
        (what,) = self.chosen.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self.steps[what] += 1
        await getattr(self, f"_{what}")(number)

    async def _run(self, number: int) -> None:
        assert self.harness.app is not None
        runner = self.harness.app.state.context.tool_runner
        call = ToolCall("read", uuid.UUID(int=number).hex, "application/json", json.dumps({"number": number}).encode())
        self.runs[number] = asyncio.create_task(runner.run("reader", call))
        self.under_way.add(self.runs[number])
        self.runs[number].add_done_callback(self.under_way.discard)
        if len(self.under_way) > 24:
            await asyncio.wait(self.under_way, return_when=asyncio.FIRST_COMPLETED)

    async def _wait(self, _: int) -> None:
        await asyncio.sleep(self.chosen.choice((0, 0.0005, 0.003)))

    async def _kill(self, _: int) -> None:
        """Whatever it does: start, serve, drain."""
        if running := [each for each in self.containers if each.running]:
            await self.chosen.choice(running).kill()

    async def _start(self, _: int) -> None:
        """What `restart --only failed` does."""
        await self._command(self.supervisor.start())

    async def _scale(self, _: int) -> None:
        await self._command(self.supervisor.scale(self.chosen.randint(1, GPUS)))

    async def _stop(self, _: int) -> None:
        await self._command(self.supervisor.stop())

    async def _restart(self, _: int) -> None:
        async def restart() -> None:
            with suppress(TimeoutError):  # it joined one that goes on
                await self.supervisor.restart()

        await self._command(restart())

    async def _park(self, _: int) -> None:
        await self._command(self.supervisor.park())

    async def _lose(self, _: int) -> None:
        gpus = self.harness.gpus
        if len(gpus.devices) > GPUS // 2:
            lost = self.chosen.choice(gpus.devices)
            gpus.devices = tuple(each for each in gpus.devices if each is not lost)

    async def _give_back(self, _: int) -> None:
        self.harness.gpus.devices = tuple(self.devices.values())

    async def _command(self, command: Coroutine[Any, Any, Any]) -> None:
        """Half of them are not waited for: the next comes while they are under way."""
        task = asyncio.create_task(command)
        self.commands.add(task)
        if self.chosen.random() < 0.5 or sum(not each.done() for each in self.commands) > 2:
            await asyncio.wait(self.commands)
        for each in [each for each in self.commands if each.done()]:
            self.commands.discard(each)
            each.result()

    async def lull(self) -> None:
        """Wait until nothing is under way; then what is known and what is there must be the same."""
        if self.commands:
            await asyncio.wait(self.commands)
        await self._collect()

        async def settled() -> bool:
            alive = {each.generation for each in self.record.instances if not each.ended}
            there = {int(each.spec.labels["plugin-orchestrator.generation"]) for each in self.containers}
            if not all(each.running for each in self.containers):  # killed, and perhaps not heard of yet
                return False
            ready = {each.generation for each in self.record.instances if each.ready}
            return not self.supervisor.restarting and alive == there == ready and not self._on_lost()

        try:
            await eventually(settled, within=20)
        except AssertionError:
            known = [(each.generation, str(each.state), each.role, each.reason_code) for each in self.record.instances]
            there = [(each.spec.name, each.status.state) for each in self.containers]
            raise AssertionError(f"known {known}, there {there}, lost {self._on_lost()}") from None
        assert (self.record.in_flight, self.record.queued) == (0, 0)

    async def hand_over(self) -> None:
        """To another orchestrator, which finds the containers. Its start is a command."""
        await self.lull()
        before = {each.generation for each in self.record.instances if each.ready}
        wanted = self.record.wanted
        await self.harness.shut(containers_stay=True)
        await self.open()
        await self.lull()
        after = {each.generation for each in self.record.instances if each.ready}
        assert before <= after, "one was not adopted"
        assert self.record.wanted == wanted

    async def _collect(self) -> None:
        answers = dict(zip(self.runs, await asyncio.gather(*self.runs.values()), strict=True))
        for number, answer in answers.items():
            assert answer.outcome in ANSWERS, answer
            if answer.outcome is Outcome.OK:
                assert json.loads(answer.result) == number
                assert self.calls[number] == 1
            elif answer.outcome is Outcome.QUEUE_FULL:
                assert self.calls[number] == 0
            else:
                assert answer.reason_code is not None, answer
            self.answers[answer.outcome] += 1
        self.runs.clear()

    def _on_lost(self) -> list[str]:
        there = {each.uuid for each in self.harness.gpus.devices}
        return [each.spec.name for each in self.containers if set(_uuids(each)) - there]

    def _note_end(self, event: LifecycleEvent) -> None:
        if event.plugin == "reader" and event.state in ("FAILED", "UNAVAILABLE") and event.previous is not event.state:
            self.ends.append(event.generation)

    # What holds after every step

    def check(self) -> None:
        record = self.record
        self._check_gpus()
        self._check_state(record)
        self._check_degraded(record)
        if twice := [number for number, times in self.calls.items() if times > 1]:
            raise AssertionError(f"runs were made twice: {twice}")

    def _check_gpus(self) -> None:
        held = Counter(found for each in self.containers for found in _uuids(each))
        assert max(held.values(), default=0) <= 1, f"a GPU has two containers: {held}"
        assert all(len(_uuids(each)) == 1 for each in self.containers)

    def _check_state(self, record: PluginRecord) -> None:
        assert len({each.generation for each in record.instances}) == len(record.instances)
        alive = [each for each in record.instances if not each.ended]
        shown = [each for each in alive if each.role == "serving"] or alive
        if shown:
            assert record.state == min((each.state for each in shown), key=BEST_FIRST.index)
            assert record.reason_code is record.reason is None
            return
        ended = [each for each in record.instances if each.role == "serving"] or list(record.instances)
        failed = [each for each in ended if each.state is PluginLifecycleState.FAILED]
        first = min(failed or ended, key=self._order)
        shown, right = (
            (each.state, each.reason_code, each.reason, each.container, each.ended_tick) for each in (record, first)
        )
        assert shown == right, (record, self.ends[-20:])
        assert record.reason

    def _order(self, instance: InstanceRecord) -> int:
        return self.ends.index(instance.generation) if instance.generation in self.ends else -1

    def _check_degraded(self, record: PluginRecord) -> None:
        serving = [each for each in record.instances if each.role == "serving"]
        alive = [each for each in serving if not each.ended]
        missing = record.wanted - len(alive)
        any_alive = any(not each.ended for each in record.instances)
        assert record.degraded == (any_alive and record.wanted > 1 and missing > 0), record
        assert record.ready == sum(each.ready for each in serving)
        assert len(alive) <= record.wanted or any(each.role == "draining" for each in record.instances), record
        if not record.degraded:
            assert record.degraded_reason is None
            return
        reason = record.degraded_reason or ""
        assert reason.startswith(f"{record.ready} of {record.wanted} instances serve"), reason
        for each in sorted((each for each in serving if each.ended), key=self._order)[-missing:]:
            assert str(each.reason_code) in reason, reason
            assert str(each.generation) in reason, reason
            assert "restart reader --only failed" in reason


def _uuids(container: MemoryContainer) -> tuple[str, ...]:
    devices = container.spec.devices
    return () if devices is None else devices.uuids


@pytest.mark.slow
@pytest.mark.timeout(900 * PATIENCE)  # on an idle machine it takes twenty seconds
async def test_ten_thousand_steps_on_eight_gpus(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills, losses of GPUs, runs, commands (several at once), successors. After each step: no GPU has two containers,
    no run was sent twice, and state, reason, `degraded` and what is missing are right.
    """
    monkeypatch.setattr(gpu_planner, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(gpu_planner, "DRAIN_INTERVAL", 0.01)
    # A start waits no longer for a GPU that is being released, since it may be lost.
    for patience in ("_DRAIN_TIMEOUT", "_UNSURE_TIMEOUT"):
        monkeypatch.setattr(gpu_planner, patience, 0.2)
    harness.engine.device_drivers = ("nvidia",)
    harness.gpus = FakeGpus(*(device(index) for index in range(GPUS)))
    world = World(harness, seed=11)
    gpu = {"requires_gpu": True, "gpu": {"count": 1}}
    harness.add("reader", tools={"read": world.read}, replicas=GPUS, failure_policy="tolerant", **gpu)
    await world.open()
    await world.lull()
    for number in range(1, STEPS + 1):
        await world.step(number)
        world.check()
        if number % BETWEEN_ORCHESTRATORS == 0:
            await world.hand_over()
        elif number % BETWEEN_LULLS == 0:
            await world.lull()
        world.check()
    # All of it happened, and most of the runs could be made.
    assert set(world.answers) >= {Outcome.OK, Outcome.PLUGIN_FAILED}, world.answers
    assert world.answers[Outcome.OK] > STEPS // 10, world.answers
    harness.gpus.devices = tuple(world.devices.values())
    await world.supervisor.scale(GPUS)
    await world.supervisor.start()
    await world.lull()
    assert (world.record.ready, world.record.degraded) == (GPUS, False)
