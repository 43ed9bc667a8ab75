"""No order of concurrent starts, stops, failures and restarts grants a device twice: shown over 10,000 random steps.

A world of containers on GPUs runs beside the lease table. The table learns of it only as in production: late, by probes
that took time, by labels after a restart. After every step the world, not the table, is checked for two containers that
share what may not be shared.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.reliability import ReliabilityTable
from unit.gpus.looks import GIB, gpu, mig_instance, probed

from orchestrator.gpus.claims import GpuDemand, Grant
from orchestrator.gpus.inventory import FaultKind, GpuFault, GpuProblem
from orchestrator.gpus.leases import LeaseTable

pytestmark = pytest.mark.slow

STEPS = 10_000
EXAMPLES, LENGTH = 260, 60
EACH = 5
"""How often each kind of step has to come up at least."""
ROUNDS = 3
TOTAL = {"GPU-0": 24 * GIB, "GPU-1": 40 * GIB, "MIG-1-0": 10 * GIB, "MIG-1-1": 20 * GIB}
PARENT = {"MIG-1-0": "GPU-1", "MIG-1-1": "GPU-1"}

counted: Counter[str] = Counter()


@dataclass
class Container:
    """A container that runs or is about to. `labels` are all that a restarted orchestrator learns of it."""

    holder: str
    grant: Grant
    labels: dict[str, str]
    running: bool = False
    uses: int = 0


class GpuWorld(RuleBasedStateMachine):
    probes = Bundle("probes")

    def __init__(self):
        super().__init__()
        self.leases = LeaseTable(drain_seconds=30.0)
        self.now = 1.0
        self.holders = (f"i{number}" for number in itertools.count())
        self.containers: dict[str, Container] = {}
        self.ended: set[str] = set()
        """Holders whose container is removed, which the table does not know yet."""
        self.leaks: Counter[str] = Counter()
        """UUID → bytes that ended containers still occupy."""
        self.forgiven: set[str] = set()
        """Devices whose leak the table cannot know of: released by an operator, or from before a restart."""
        self.foreign: Counter[str] = Counter()
        self.split = False
        self.lost: set[str] = set()

    # The world

    def in_use(self, uuid: str) -> int:
        own = sum(c.uses for c in self.containers.values() if c.running and uuid in c.grant.uuids)
        return min(TOTAL[uuid], GIB // 4 + own + self.leaks[uuid] + self.foreign[uuid])

    def inventory(self):
        devices = [gpu(0, total=TOTAL["GPU-0"]), gpu(1, total=TOTAL["GPU-1"], mig_enabled=self.split)]
        if self.split:
            devices += [mig_instance(1, slot, total=TOTAL[f"MIG-1-{slot}"]) for slot in range(2)]
        lost = GpuFault(FaultKind.GPU_LOST, "GPU is lost")
        return probed(
            *(
                replace(d, memory_used=self.in_use(d.uuid), fault=lost if d.uuid in self.lost else None)
                for d in devices
            ),
            at=self.now,
        )

    def step(self, name):
        counted[name] += 1
        self.now += 0.001

    # What happens

    @rule(
        count=st.sampled_from([1, 1, 1, 2]),
        memory=st.sampled_from([None, GIB, 8 * GIB, 15 * GIB, 30 * GIB]),
        sharing=st.sampled_from(["exclusive", "shared"]),
        after_a_probe=st.sampled_from([True, True, False]),
    )
    def gpus_are_demanded(self, count, memory, sharing, after_a_probe):
        self.step("grant")
        if after_a_probe:
            self.observe(self.inventory())
        holder = next(self.holders)
        answer = self.leases.grant(holder, f"plugin-{holder}", GpuDemand(count, memory, sharing))
        if isinstance(answer, GpuProblem):
            assert answer.sentence
            counted["refused"] += 1
            return
        assert len(set(answer.uuids)) == count
        assert self.leases.grant(holder, f"plugin-{holder}", GpuDemand(count, memory, sharing)) == answer
        for uuid in answer.uuids:
            assert not self.leaks[uuid] or uuid in self.forgiven, f"{uuid} was granted with an ended container's memory"
        self.containers[holder] = Container(holder, answer, answer.labels())

    def some(self, data, *, running):
        return data.draw(st.sampled_from([c for c in self.containers.values() if c.running is running]))

    @precondition(lambda self: any(not c.running for c in self.containers.values()))
    @rule(data=st.data())
    def its_container_starts(self, data):
        self.step("start")
        self.some(data, running=False).running = True

    @precondition(lambda self: any(not c.running for c in self.containers.values()))
    @rule(data=st.data())
    def its_start_fails(self, data):
        self.step("failed start")
        container = self.some(data, running=False)
        del self.containers[container.holder]
        assert self.leases.release(container.holder, self.now)

    @precondition(lambda self: any(c.running for c in self.containers.values()))
    @rule(data=st.data(), share=st.floats(0, 1))
    def it_uses_memory(self, data, share):
        self.step("use")
        container = self.some(data, running=True)
        container.uses = int(share * (container.grant.memory or 10 * GIB))

    @precondition(lambda self: any(c.running for c in self.containers.values()))
    @rule(data=st.data(), leaks=st.sampled_from([True, True, False]), noticed=st.booleans())
    def it_ends(self, data, leaks, noticed):
        self.step("end" if noticed else "crash")
        container = self.some(data, running=True)
        del self.containers[container.holder]
        for uuid in container.grant.uuids:
            self.leaks[uuid] += max(container.uses, GIB) if leaks and container.grant.sharing == "exclusive" else 0
        if noticed:
            assert self.leases.release(container.holder, self.now)
        else:
            self.ended.add(container.holder)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def its_end_is_noticed(self, data):
        self.step("noticed")
        holder = data.draw(st.sampled_from(sorted(self.ended)))
        self.ended.discard(holder)
        assert self.leases.release(holder, self.now)

    @rule(data=st.data())
    def an_end_is_reported_again(self, data):
        """Of a holder that has ended already, or is unknown."""
        self.step("end reported again")
        draining = {claim.holder for claim in self.leases.claims if claim.phase != "held"}
        holder = data.draw(st.sampled_from([*sorted(draining), "nobody"]))
        before = self.leases.claims
        assert self.leases.release(holder, self.now) is (holder in draining)
        assert self.leases.claims == before

    @precondition(lambda self: any(self.leaks.values()))
    @rule(data=st.data())
    def leaked_memory_is_freed(self, data):
        self.step("memory freed")
        uuid = data.draw(st.sampled_from(sorted(uuid for uuid, size in self.leaks.items() if size)))
        self.leaks[uuid] = 0

    @rule(target=probes)
    def a_probe_starts(self):
        self.step("probe starts")
        return self.inventory()

    @rule(inventory=consumes(probes))
    def a_probe_ends_late(self, inventory):
        self.step("late probe")
        self.observe(inventory)

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0, 40.0]))
    def a_regular_probe(self, seconds):
        self.step("probe")
        self.now += seconds
        self.observe(self.inventory())

    def observe(self, inventory):
        for change in self.leases.observe(inventory, self.now):
            counted[change.state] += 1

    @rule(data=st.data(), trouble=st.sampled_from(["restart", "MIG", "foreign", "lost", "found", "failed probe"]))
    def trouble_comes(self, data, trouble):
        self.step(trouble)
        uuid = data.draw(st.sampled_from(["GPU-0", "GPU-1"]))
        match trouble:
            case "restart":
                self.orchestrator_is_killed_and_started_again(data)
            case "foreign":  # a foreign program starts or ends
                self.foreign[uuid] = data.draw(st.sampled_from([0, 5 * GIB, 20 * GIB]))
                self.forgiven.add(uuid)  # by memory alone, our leak and foreign use look the same
            case "MIG":
                on_it = {uuid for c in self.containers.values() if c.running for uuid in c.grant.uuids}
                if not on_it & {"GPU-1", *PARENT}:  # the driver refuses it while a program runs there
                    self.split = not self.split
            case "lost":
                self.lost.add(uuid)
            case "found":
                self.lost.clear()
            case "failed probe":
                self.observe(replace(probed(at=self.now), fault=GpuFault(FaultKind.HANG)))

    @precondition(lambda self: self.leases.quarantines())
    @rule(data=st.data())
    def an_operator_releases_a_quarantine(self, data):
        self.step("release quarantine")
        quarantined = sorted({claim.uuid for claim in self.leases.claims if claim.phase == "quarantined"})
        uuid = data.draw(st.sampled_from(quarantined))
        assert self.leases.release_quarantine(uuid)
        self.forgiven.add(uuid)

    def orchestrator_is_killed_and_started_again(self, data):
        """Running containers are adopted from their labels, in any order; those not yet started are removed."""
        self.leases = LeaseTable(drain_seconds=30.0)
        self.ended.clear()
        self.forgiven |= {uuid for uuid, size in self.leaks.items() if size}
        self.containers = {holder: c for holder, c in self.containers.items() if c.running}
        if data.draw(st.booleans()):
            self.observe(self.inventory())
        for holder in data.draw(st.permutations(sorted(self.containers))):
            self.adopt(self.containers[holder])

    @precondition(lambda self: any(c.running for c in self.containers.values()))
    @rule(data=st.data())
    def a_container_is_adopted_again(self, data):
        self.step("adopted again")
        before = set(self.leases.claims)
        self.adopt(self.some(data, running=True))
        assert set(self.leases.claims) == before

    def adopt(self, container):
        grant = Grant.from_labels(container.labels, holder=container.holder, plugin=f"plugin-{container.holder}")
        assert self.leases.adopt(grant), "the world is consistent, so every container can be adopted"

    @precondition(lambda self: any(c.running for c in self.containers.values()))
    @rule(data=st.data())
    def a_stranger_claims_what_another_holds(self, data):
        """A container that must not exist: its labels name a device that is exclusively held."""
        self.step("stranger")
        container = self.some(data, running=True)
        if container.grant.sharing == "exclusive":
            before = self.leases.claims
            assert not self.leases.adopt(replace(container.grant, holder="stranger", plugin="stranger"))
            assert self.leases.claims == before

    # Invariants of the world

    @invariant()
    def no_device_is_granted_twice(self):
        on: dict[str, list[Container]] = {}
        for container in self.containers.values():  # those about to start too: their grant is made
            for uuid in container.grant.uuids:
                on.setdefault(uuid, []).append(container)
        for uuid, users in on.items():
            if len(users) > 1:
                assert all(user.grant.sharing == "shared" for user in users), f"{uuid} was granted twice"
            assert sum(user.grant.memory or 0 for user in users) <= TOTAL[uuid], f"{uuid} is promised beyond its size"
            assert PARENT.get(uuid) not in on, f"{uuid} and its parent GPU were both granted"

    @invariant()
    def every_grant_is_in_the_table(self):
        for holder, container in self.containers.items():
            grant = self.leases.grant_of(holder)
            assert grant is not None
            assert set(grant.uuids) == set(container.grant.uuids)


def enough() -> tuple[int, ...]:
    """How often each thing came up that has to."""
    others = (counted[name] for name in ("refused", "free", "quarantined", "restart"))
    return (counted["grant"] - counted["refused"], *others)


def test_ten_thousand_random_steps_grant_no_device_twice(reliability: ReliabilityTable):
    counted.clear()
    # What is chosen at random is at times nearly always the same: it goes on until everything has come up.
    for _ in range(ROUNDS):
        if min(enough()) >= EACH:
            break
        run_state_machine_as_test(
            GpuWorld,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=LENGTH,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    outcomes = {"refused", "free", "quarantined"}
    steps = sum(number for name, number in counted.items() if name not in outcomes)
    granted = counted["grant"] - counted["refused"]
    figure = (
        f"GPU leases: double grants in {steps} random steps ({granted} grants, {counted['refused']} refusals, "
        f"{counted['restart']} restarts)"
    )
    reliability.at_most(figure, 0, limit=0)  # the first one would have ended the machine
    assert steps >= STEPS
    assert min(enough()) >= EACH
