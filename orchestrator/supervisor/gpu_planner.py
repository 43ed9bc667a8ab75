"""GpuPlanner: which start gets which GPUs, and who is parked for it. Carries out what `parking` decides."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, Final, assert_never

from orchestrator.gpus import GpuDemand, GpuInventory, GpuProblem, Grant, LeaseTable
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.container_policy import InstanceIdentity
from orchestrator.supervisor.gpu_occupancy import Applicant, GpuOccupancy, Plugin
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.parking import Impossible, Need, Park, Start, Tenant, Wait, plan_room
from orchestrator.supervisor.room import Holder

LOOK_INTERVAL: Final = 2.0  # seconds between looks at the GPUs
DRAIN_INTERVAL: Final = 0.25  # the same while the memory of one is waited for
# A driver takes one or two seconds to free the memory of a container that was removed.
_DRAIN_TIMEOUT: Final = 3.0  # seconds that a start waits for that, where no run waits for it
# Where the driver does not say whose memory is in use, only time shows that it is not the container's.
_UNSURE_TIMEOUT: Final = 10.0
_PROBLEM_PATIENCE: Final = 10.0  # seconds that one which waits bears looks that find the host out of order


class GpuPlanner:
    """One for a host: every lease of a new instance is granted here. `read` looks at the GPUs and updates `leases`;
    `withheld`: holders whose containers could not be stopped or removed.
    """

    def __init__(
        self,
        leases: LeaseTable,
        read: Callable[[], Awaitable[GpuInventory]],
        withheld: Container[str],
        clock: Callable[[], float],
    ) -> None:
        self._leases = leases
        self._read = read
        self._clock = clock
        self._occupancy = GpuOccupancy(leases, withheld)
        self._applicants: dict[str, Applicant] = {}
        """By their holders."""
        self._wake = asyncio.Event()
        self._planning: asyncio.Task[None] | None = None
        self._looked_at = -inf
        self._problem: GpuProblem | None = None
        """Of the host, by the last look."""
        self._problem_since = inf

    def meet(self, find: Callable[[str], Plugin | None]) -> None:
        """Know the plugins: `find` returns the supervisor of a name."""
        self._occupancy.find = find

    def changed(self) -> None:
        """Something may have an answer that had none: an instance, a run, a command or a lease has changed."""
        if self._applicants:
            self._wake.set()

    async def acquire(
        self, identity: InstanceIdentity, manifest: Manifest, demand: GpuDemand, say: Callable[[str], None]
    ) -> Grant:
        """The GPUs of this instance, once there is room for it; `say` is called with what it waits for. Raises
        `InstanceEndedError`: GPU_BUSY where nothing that may be parked makes room, PARKED where nobody waits for it, or
        a problem of the host.
        """
        applicant = Applicant(identity, manifest, demand, self._clock(), say)
        self._applicants[applicant.holder] = applicant
        self._wake.set()
        if self._planning is None or self._planning.done():
            self._planning = asyncio.create_task(self._plan_while_any_waits(), name="plan of the GPUs")
        try:
            return await applicant.grant
        finally:
            self._applicants.pop(applicant.holder, None)
            self._wake.set()
            if applicant.grant.done() and not applicant.grant.cancelled():
                applicant.grant.exception()  # of one that is cancelled in this instant nobody asks for it

    def would_park(self, plugin: str, demand: GpuDemand) -> tuple[str, ...]:
        """The plugins that are parked where an operator's command begins one more instance of this one now; none where
        it would find room without that, or would have to wait.
        """
        tenants = self._occupancy.tenants()
        others = [need for need, _ in self._occupancy.needs(self._applicants.values(), tenants)]
        need = Need(plugin, demand, self._clock())
        plan = plan_room(self._occupancy.gpus(), tenants, [*others, need], self._clock())
        answer = next(answer for each, answer in plan if each is need)
        return tuple(sorted({name for name, _ in answer.holders})) if isinstance(answer, Park) else ()

    def report(self) -> list[dict[str, Any]]:
        """The instances that wait for GPUs, as in the API."""
        return [
            {
                "plugin": each.plugin,
                "instance": each.holder,
                "generation": each.identity.generation,
                "gpus": each.demand.count,
                "seconds": round(self._clock() - each.since, 3),
                "behind": list(each.behind),
                "reason": each.sentence,
            }
            for each in self._applicants.values()
        ]

    # Inside

    async def _plan_while_any_waits(self) -> None:
        try:
            while self._applicants:
                await self._look()
                seconds = self._plan() - self._clock()
                self._wake.clear()  # all that came until now is planned, but for what no look has seen
                # The last may have left during the look: then nothing wakes this any more.
                if self._applicants and all(each.seen for each in self._applicants.values()):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, seconds)):
                            await self._wake.wait()
        except Exception as error:  # noqa: BLE001 - they would wait for ever; a start's end says what it is
            for each in self._applicants.values():
                if not each.grant.done():
                    each.grant.set_exception(error)

    async def _look(self) -> None:
        """Look at the GPUs, unless what is known is new enough: leases depend on the memory in use."""
        applicants = tuple(self._applicants.values())
        if all(each.seen for each in applicants) and self._clock() < self._looked_at + self.look_interval:
            return
        inventory = await self._read()
        self._looked_at = self._clock()
        if self._problem is None and inventory.problem is not None:
            self._problem_since = self._looked_at
        self._problem = inventory.problem
        for each in applicants:
            each.seen = True
            each.found_usable |= self._problem is None

    @property
    def look_interval(self) -> float:
        """Seconds between looks at the GPUs while any is leased, or waited for."""
        return DRAIN_INTERVAL if self._leases.reclaiming else LOOK_INTERVAL

    def _plan(self) -> float:
        """Carry out the plan. Returns when to plan again although nothing has happened."""
        now = self._clock()
        if self._problem is not None:
            for each in tuple(self._applicants.values()):
                # Now and then a look fails; to one that has just come it is the answer.
                if each.seen and (not each.found_usable or now > self._problem_since + _PROBLEM_PATIENCE):
                    self._refuse(each, self._problem)
            return now + LOOK_INTERVAL
        for plugin in self._occupancy.closing():
            plugin.run_left()
        refused: dict[str, Applicant] = {}
        while (until := self._carry_out(refused, now)) is None:
            pass
        return min(until, now + self.look_interval)

    def _carry_out(self, refused: dict[str, Applicant], now: float) -> float | None:
        """As `_plan`. None where leases were granted or refused: what others get is to be planned again. `refused`: the
        GPUs that the lease table did not grant as the plan says, since other programs' memory is in use there, with who
        was to get them.
        """
        tenants = self._occupancy.tenants()
        # One that has just been stopped is about to be cancelled.
        seen = [each for each in self._applicants.values() if each.seen and not self._occupancy.ended(each)]
        needs = self._occupancy.needs(seen, tenants)
        applicants = {need.holder: applicant for need, applicant in needs}
        plan = plan_room(self._occupancy.gpus(refused), tenants, [need for need, _ in needs], now)
        starts = [(applicants[need.holder], answer.uuids) for need, answer in plan if isinstance(answer, Start)]
        for applicant, uuids in starts:
            self._grant(applicant, uuids, refused)
        if starts:
            return None
        again = inf
        for need, answer in plan:
            applicant = applicants[need.holder]
            match answer:
                case Park(holders, uuids):
                    for holder in holders:
                        self._close(holder, need.plugin, uuids)
                    _say(applicant, holders, "; ".join(f"{name} is parked for it" for name, _ in holders))
                case Wait(until, behind):
                    again = min(again, until)
                    self._wait(applicant, need, behind, tenants)
                case Impossible(kept):
                    # For lack of what was refused to another it is no answer.
                    if not refused or applicant in refused.values():
                        all_kept = {each.plugin for each in tenants if each.keep} if kept else set()
                        self._refuse(applicant, _with_kept(self._leases.refusal(need.demand), all_kept))
                case Start():
                    raise AssertionError("all starts are carried out above")
                case _ as never:
                    assert_never(never)
        return again

    def _wait(self, applicant: Applicant, need: Need, behind: Sequence[str], tenants: Sequence[Tenant]) -> None:
        if behind:
            if (problem := self._too_slow(applicant)) is not None:
                self._refuse(applicant, problem)
            else:
                _say(applicant, [(name, 0) for name in behind], "; ".join(map(self._occupancy.has_it, behind)))
        elif need.waiting:
            _say(applicant, (), "others that wait come first")
        # One that serves already lacks an instance, and is not parked.
        elif applicant.manifest.may_be_parked and not any(tenant.plugin == need.plugin for tenant in tenants):
            why = f"{self._leases.why_busy(need.demand)} Nobody waits for it: its next run makes room and starts it."
            self._end(applicant, Verdict(ReasonCode.PARKED, why))
        else:
            self._refuse(applicant, self._leases.refusal(need.demand))

    def _too_slow(self, applicant: Applicant) -> GpuProblem | None:
        """Why the memory of removed containers is waited for no longer. For runs it is, until it is quarantined."""
        plugin, drained_at = self._occupancy.find(applicant.plugin), self._occupancy.drained_at()
        if drained_at is None or (plugin is not None and plugin.runs_waiting):
            return None
        patience = _UNSURE_TIMEOUT if self._leases.unsure else _DRAIN_TIMEOUT
        if self._clock() <= max(applicant.since, drained_at) + patience:
            return None
        problem = self._leases.refusal(applicant.demand)
        if not self._leases.unsure:
            return problem
        return replace(
            problem,
            sentence=f"{problem.sentence} It was waited for {patience:g} s: whose memory is in use on the GPU that is "
            "being released cannot be known, since the driver does not name the processes that hold it.",
        )

    def _close(self, holder: Holder, for_plugin: str, uuids: Sequence[str]) -> None:
        name, generation = holder
        plugin = self._occupancy.find(name)
        if plugin is not None:
            labels = " and ".join(each.name for each in self._leases.devices() if each.uuid in uuids)
            reason = f"It was parked to make room for {for_plugin} on {labels}. The next run starts it again."
            plugin.close_for(generation, reason)

    def _refuse(self, applicant: Applicant, problem: GpuProblem) -> None:
        self._end(applicant, Verdict(problem.code, problem.sentence))

    def _end(self, applicant: Applicant, verdict: Verdict) -> None:
        del self._applicants[applicant.holder]
        if not applicant.grant.done():
            applicant.grant.set_exception(InstanceEndedError(verdict))

    def _grant(self, applicant: Applicant, uuids: Sequence[str], refused: dict[str, Applicant]) -> None:
        grant = self._leases.grant(applicant.holder, applicant.plugin, applicant.demand, among=uuids)
        if isinstance(grant, GpuProblem):
            refused.update(dict.fromkeys(uuids, applicant))
            return
        del self._applicants[applicant.holder]
        if not applicant.grant.done():  # cancelled in this instant: its teardown ends the lease
            applicant.grant.set_result(grant)


def _say(applicant: Applicant, behind: Sequence[Holder], sentence: str) -> None:
    applicant.behind = tuple(sorted({name for name, _ in behind}))
    applicant.sentence = sentence
    applicant.say(sentence)


def _with_kept(problem: GpuProblem, kept: Iterable[str]) -> GpuProblem:
    if not kept or problem.code is not ReasonCode.GPU_BUSY:
        return problem
    names = ", ".join(sorted(kept))
    return replace(problem, sentence=f"{problem.sentence} Never parked for another (`idle.keep`): {names}.")
