"""Parking: who is parked for whom, who never is, and when nobody calls an instance any more."""

from dataclasses import replace
from itertools import combinations
from math import inf
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.gpus import GpuDemand
from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings
from orchestrator.supervisor.demand import HALF_LIFE, RecentUse
from orchestrator.supervisor.parking import (
    MAX_RESIDENCE,
    MIN_RESIDENCE,
    PATIENCE,
    Answer,
    Gpu,
    Impossible,
    Need,
    Park,
    Start,
    Tenant,
    Wait,
    plan_room,
    starts_uncalled,
)

GIB = 2**30
MINIMAL = {"name": "reader", "version": "1", "description": "Reads.", "entrypoint": "reader.plugin:Reader"}
A, B = Gpu("GPU-a", 24 * GIB), Gpu("GPU-b", 24 * GIB)
LONG_AGO, NOW = 0.0, 10_000.0
ALONE = GpuDemand()


def shared(gib: int, count: int = 1) -> GpuDemand:
    return GpuDemand(count, gib * GIB, "shared")


def tenant(plugin: str, *uuids: str, **fields: Any) -> Tenant:
    """One that was ready long ago, had one run since, and could be parked."""
    usual = {"ready_at": LONG_AGO, "used_at": LONG_AGO, "start_seconds": 5.0, "recent_runs": 1.0}
    return Tenant(plugin, 1, uuids or ("GPU-a",), **usual | fields)


def need(plugin: str = "new", demand: GpuDemand = ALONE, **fields: Any) -> Need:
    return Need(plugin, demand, **{"since": NOW, "start_seconds": 5.0} | fields)


def answer(gpus: list[Gpu], tenants: list[Tenant], wanted: Need, now: float = NOW) -> Answer:
    ((_, given_answer),) = plan_room(gpus, tenants, [wanted], now)
    return given_answer


# One need


def test_what_fits_is_started_and_nobody_is_parked() -> None:
    assert answer([A, B], [tenant("old")], need()) == Start(("GPU-b",))


def test_an_idle_instance_makes_room() -> None:
    assert answer([A], [tenant("old")], need()) == Park((("old", 1),), ("GPU-a",))


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        ({"in_flight": 1}, NOW + PATIENCE),
        ({"queued": 1}, NOW + PATIENCE),
        ({"ready_at": NOW - 4, "used_at": None}, NOW + 6),  # residence: twice its start
        ({"ready_at": NOW - 4, "used_at": NOW - 1}, NOW + 6),
        ({"used_at": NOW - 1}, NOW + 4),  # rest: as long as its start
        ({"ready_at": NOW, "start_seconds": 0.0}, NOW + MIN_RESIDENCE),
        ({"ready_at": NOW, "start_seconds": 900.0, "used_at": NOW}, NOW + MAX_RESIDENCE),
        ({"ready_at": NOW, "start_seconds": None}, NOW + 20),
        ({"state": "starting", "ready_at": None, "granted_at": NOW}, NOW + PATIENCE),
        ({"state": "starting", "ready_at": None, "granted_at": LONG_AGO}, NOW + PATIENCE),
        ({"state": "closing"}, inf),  # its lease ends without anything more being done
    ],
)
def test_one_that_may_not_be_parked_yet_is_waited_for(fields: dict[str, Any], until: float) -> None:
    assert answer([A], [tenant("old", **fields)], need()) == Wait(until, ("old",))


def test_who_has_waited_long_gets_the_room_of_one_that_is_never_idle() -> None:
    """It is closed: what it has begun and what waits for it is executed."""
    waited = need(since=NOW - PATIENCE)
    for fields in ({"in_flight": 3}, {"queued": 1}, {"used_at": NOW}):
        assert answer([A], [tenant("hot", **fields)], waited) == Park((("hot", 1),), ("GPU-a",))
    starting = tenant("hot", state="starting", ready_at=None, granted_at=NOW - 100)
    assert answer([A], [starting], waited) == Wait(NOW + MIN_RESIDENCE, ("hot",))
    young = tenant("hot", ready_at=NOW - 1, in_flight=1)
    assert answer([A], [young], waited) == Wait(NOW + 9, ("hot",))


def test_an_idle_one_goes_before_a_busy_one_however_cheap_that_is() -> None:
    tenants = [tenant("busy", in_flight=1, recent_runs=0.0), tenant("idle", "GPU-b", recent_runs=100.0)]
    assert answer([A, B], tenants, need(since=NOW - PATIENCE)) == Park((("idle", 1),), ("GPU-b",))


def test_what_is_kept_is_named() -> None:
    tenants = [tenant("old", keep=True), tenant("other", "GPU-b", keep=True)]
    assert answer([A, B], tenants, need()) == Impossible(("old",))
    assert answer([A, B], tenants, need(demand=GpuDemand(2))) == Impossible(("old", "other"))
    tenants[1] = replace(tenants[1], keep=False)
    assert answer([A, B], tenants, need(demand=GpuDemand(2), since=LONG_AGO)) == Impossible(("old",))


@pytest.mark.parametrize(
    ("gpus", "demand"),
    [
        ([], ALONE),
        ([A], GpuDemand(2)),
        ([A], GpuDemand(1, 25 * GIB)),
        ([A], shared(25)),
        ([Gpu("GPU-a")], shared(1)),  # a driver that reports no memory
        ([Gpu("MIG-a", None, single=True), Gpu("MIG-b", None, single=True)], GpuDemand(2)),
    ],
)
def test_nobody_is_parked_for_what_no_gpu_here_can_give(gpus: list[Gpu], demand: GpuDemand) -> None:
    """Else everybody would be, again and again."""
    tenants = [tenant(gpu.uuid, gpu.uuid) for gpu in gpus]
    assert answer(gpus, tenants, need(demand=demand, since=LONG_AGO)) == Impossible()


def test_nobody_is_parked_where_nobody_waits() -> None:
    """A start of the orchestrator's own, or a further replica."""
    assert answer([A], [tenant("old")], need(waiting=0, since=LONG_AGO)) == Wait(inf, ())
    assert answer([A, B], [tenant("old")], need(waiting=0)) == Start(("GPU-b",))


def test_where_nobody_waits_it_is_said_whether_anybody_could_be_parked() -> None:
    """Else its own instances are in the way, or nothing would help."""
    assert answer([A], [tenant("new")], need("new", waiting=0)) == Impossible()
    assert answer([A], [tenant("old", keep=True)], need(waiting=0)) == Impossible(("old",))
    assert answer([A], [tenant("old")], need(waiting=0, demand=GpuDemand(2))) == Impossible()


def test_instances_of_one_plugin_are_spread_or_packed() -> None:
    """Also those that are planned at once."""
    gpus = [replace(A, rank=(2.0,)), replace(B, rank=(1.0,)), Gpu("GPU-c", 24 * GIB, rank=(3.0,))]
    for spread, expected in (("gpu", ["GPU-b", "GPU-a", "GPU-c", "GPU-b"]), ("pack", ["GPU-b"] * 4)):
        demand = GpuDemand(1, 4 * GIB, "shared", spread)
        wanted = [need("new", demand, generation=number) for number in range(4)]
        starts = [each for _, each in plan_room(gpus, [], wanted, NOW)]
        assert starts == [Start((uuid,)) for uuid in expected]
    first = tenant("new", "GPU-a", memory=4 * GIB)
    assert answer(gpus, [first], need("new", GpuDemand(1, 4 * GIB, "shared", "pack"))) == Start(("GPU-a",))
    assert answer(gpus, [first], need("new", GpuDemand(1, 4 * GIB, "shared", "gpu"))) == Start(("GPU-b",))


def test_a_plugin_makes_no_room_for_itself() -> None:
    """A second instance in place of the first would be none more."""
    assert answer([A], [tenant("new")], need("new")) == Impossible()


@pytest.mark.parametrize(
    ("first", "second", "parked"),
    [
        ({"start_seconds": 5.0}, {"start_seconds": 4.0}, "second"),
        ({"recent_runs": 1.0}, {"recent_runs": 2.0}, "first"),
        ({"start_seconds": 100.0, "recent_runs": 1.0}, {"start_seconds": 1.0, "recent_runs": 90.0}, "second"),
        ({"used_at": 20.0}, {"used_at": 10.0}, "second"),  # they cost the same: the one that is idle longer
        ({}, {}, "first"),
    ],
)
def test_the_cheapest_to_bring_back_is_parked(first: dict[str, Any], second: dict[str, Any], parked: str) -> None:
    """Seconds of its start times recent runs of its plugin."""
    tenants = [tenant("first", "GPU-a", **first), tenant("second", "GPU-b", **second)]
    for order in (tenants, tenants[::-1]):
        given_answer = answer([A, B], order, need())
        assert isinstance(given_answer, Park) and given_answer.holders == ((parked, 1),)


def test_of_shared_gpus_only_as_much_is_parked_as_is_needed() -> None:
    memory = {"large": 14, "small": 4, "tiny": 2}
    tenants = [tenant(name, memory=gib * GIB, recent_runs=gib) for name, gib in memory.items()]
    assert answer([A], tenants, need(demand=shared(4))) == Start(("GPU-a",))
    assert answer([A], tenants, need(demand=shared(6))) == Park((("tiny", 1),), ("GPU-a",))
    assert answer([A], tenants, need(demand=shared(9))) == Park((("small", 1), ("tiny", 1)), ("GPU-a",))
    dear = [replace(tenants[0], recent_runs=0.1), *tenants[1:]]
    assert answer([A], dear, need(demand=shared(9))) == Park((("large", 1),), ("GPU-a",))
    assert answer([A], tenants, need(demand=ALONE)) == Park((("large", 1), ("small", 1), ("tiny", 1)), ("GPU-a",))


def test_one_that_has_several_gpus_is_parked_once() -> None:
    """It is cheaper than two that have one each, though it is not the cheapest on either."""
    gpus = [*[A, B], Gpu("GPU-c", 24 * GIB), Gpu("GPU-d", 24 * GIB)]
    tenants = [
        tenant("both", "GPU-a", "GPU-b", recent_runs=3.0),
        tenant("c", "GPU-c", recent_runs=2.0),
        tenant("d", "GPU-d", recent_runs=2.0),
    ]
    assert answer(gpus, tenants, need(demand=GpuDemand(2))) == Park((("both", 1),), ("GPU-a", "GPU-b"))
    cheapest = answer(gpus, tenants, need(demand=GpuDemand(1)))
    assert isinstance(cheapest, Park) and cheapest.holders == (("c", 1),)


def test_sixteen_gpus_with_shares_on_each_are_planned_at_once() -> None:
    gpus = [Gpu(f"GPU-{n:02}", 24 * GIB) for n in range(16)]
    tenants = [
        replace(tenant(f"p{n}-{m}", f"GPU-{n:02}", f"GPU-{(n + 1) % 16:02}", memory=2 * GIB), recent_runs=n % 5 + m)
        for n in range(16)
        for m in range(6)
    ]
    given_answer = answer(gpus, tenants, need(demand=shared(9, 8)))
    assert isinstance(given_answer, Park) and len(given_answer.uuids) == 8


# Several needs


def test_each_gets_a_room_of_its_own() -> None:
    """Also while those that were parked for the first have not ended."""
    tenants = [tenant("x", "GPU-a"), tenant("y", "GPU-b", recent_runs=2.0)]
    needs = [need("first", since=NOW - 2), need("second", since=NOW - 1), need("third")]
    (_, one), (_, two), (_, three) = plan_room([A, B], tenants, needs, NOW)
    assert (one, two) == (Park((("x", 1),), ("GPU-a",)), Park((("y", 1),), ("GPU-b",)))
    assert three == Wait(inf, ())
    closing = [replace(each, state="closing") for each in tenants]
    assert [each for _, each in plan_room([A, B], closing, needs, NOW)] == [
        Wait(inf, ("x", "y")),
        Wait(inf, ("x", "y")),
        Wait(inf, ()),
    ]
    assert [each for _, each in plan_room([A, B], closing[1:], needs, NOW)] == [
        Start(("GPU-a",)),
        Wait(inf, ("y",)),
        Wait(inf, ()),
    ]


def test_most_runs_for_a_second_of_starting_come_first_unless_another_has_waited_long() -> None:
    needs = [
        need("few", waiting=2),
        need("many", waiting=5, since=NOW + 1),
        need("quick", waiting=2, start_seconds=1.0),
        need("old", since=NOW - PATIENCE),
        need("older", since=NOW - PATIENCE - 1),
        need("nobody", waiting=0, since=LONG_AGO),
    ]
    order = [each.plugin for each, _ in plan_room([A], [tenant("x", keep=True)], needs, NOW)]
    assert order == ["older", "old", "quick", "many", "few", "nobody"]


def test_gpus_are_kept_for_who_has_waited_long_for_several() -> None:
    """Those that need one alone would take each as soon as it is free."""
    tenants = [tenant("x", "GPU-a", ready_at=NOW - 1)]
    small, large = need("small", waiting=99), need("large", GpuDemand(2), since=NOW - PATIENCE)
    assert plan_room([A, B], tenants, [small, large], NOW) == ((large, Wait(NOW + 9, ("x",))), (small, Wait(inf, ())))
    assert plan_room([A, B], tenants, [small, replace(large, since=NOW)], NOW)[0] == (small, Start(("GPU-b",)))


# Every host


@st.composite
def hosts(draw: st.DrawFn) -> tuple[list[Gpu], list[Tenant], list[Need]]:
    """Up to four GPUs with leases that fit, and what waits."""
    total = st.sampled_from([8, 16, 24, None])
    gpus = [
        Gpu(f"GPU-{n}", memory and memory * GIB, draw(st.booleans()) and draw(st.booleans()))
        for n, memory in enumerate(draw(st.lists(total, min_size=1, max_size=4)))
    ]
    demands = st.builds(
        lambda count, memory, sharing: GpuDemand(count, memory and memory * GIB, sharing if memory else "exclusive"),
        st.integers(1, 3),
        st.sampled_from([None, 2, 4, 8, 16]),
        st.sampled_from(["exclusive", "shared"]),
    )
    moments = st.sampled_from([0.0, NOW - 40, NOW - 8, NOW - 1, NOW])
    tenants: list[Tenant] = []
    for number in range(draw(st.integers(0, 7))):
        demand = draw(demands)
        ((_, granted),) = plan_room(gpus, tenants, [need(demand=demand)], NOW)
        if not isinstance(granted, Start):
            continue
        states: list[Literal["starting", "ready", "closing"]] = ["starting", "ready", "ready", "ready", "closing"]
        state = draw(st.sampled_from(states))
        tenants.append(
            Tenant(
                f"p{draw(st.integers(0, 4))}",
                number,
                granted.uuids,
                None if demand.exclusive else demand.memory,
                state,
                in_flight=draw(st.sampled_from([0, 0, 2])),
                queued=draw(st.sampled_from([0, 0, 2])),
                granted_at=draw(moments),
                ready_at=None if state == "starting" else draw(moments),
                used_at=draw(st.none() | moments),
                start_seconds=draw(st.sampled_from([None, 0.0, 5.0, 40.0])),
                recent_runs=draw(st.sampled_from([0.0, 1.0, 3.0])),
                keep=draw(st.sampled_from([False, False, True])),
            )
        )
    starts = st.sampled_from([None, 1.0, 9.0])
    needs = [  # of new instances: no tenant has their generation
        Need(f"p{n}", draw(demands), draw(moments), draw(st.integers(0, 3)), draw(starts), generation=50)
        for n in range(draw(st.integers(1, 4)))
    ]
    return gpus, tenants, needs


def fits(gpus: list[Gpu], tenants: list[Tenant], demand: GpuDemand) -> bool:
    """Written anew, without the code under test."""
    suited = 0
    for gpu in gpus:
        here = [each for each in tenants if gpu.uuid in each.uuids]
        if gpu.single and demand.count > 1:
            continue
        if demand.exclusive:
            small = demand.memory is not None and gpu.memory is not None and gpu.memory < demand.memory
            suited += not here and not small
        elif gpu.memory is not None and all(each.memory is not None for each in here):
            suited += sum(each.memory or 0 for each in here) + (demand.memory or 0) <= gpu.memory
    return suited >= demand.count


def cost(tenants: list[Tenant]) -> tuple[int, float]:
    starts = [10.0 if each.start_seconds is None else each.start_seconds for each in tenants]
    runs = [each.recent_runs for each in tenants]
    return sum(each.busy for each in tenants), sum(a * b for a, b in zip(starts, runs, strict=True))


def may_be_parked(each: Tenant, wanted: Need) -> bool:
    start = 10.0 if each.start_seconds is None else each.start_seconds
    if each.state != "ready" or each.keep or each.plugin == wanted.plugin or each.ready_at is None:
        return False
    if each.ready_at + min(60.0, max(2.0, 2 * start)) > NOW:
        return False
    rested = not each.in_flight and not each.queued and (each.used_at is None or each.used_at + start <= NOW)
    return rested or wanted.since + PATIENCE <= NOW


@pytest.mark.slow
@settings(max_examples=400)
@given(host=hosts())
def test_the_answer_to_one_need_is_the_best_there_is(host: tuple[list[Gpu], list[Tenant], list[Need]]) -> None:
    """Compared with all sets of instances: the cheapest that may be parked, never one without need, and never none
    where there is one.
    """
    gpus, tenants, (wanted, *_) = host
    given_answer = answer(gpus, tenants, wanted)
    staying = [each for each in tenants if each.state != "closing"]
    candidates = [each for each in staying if may_be_parked(each, wanted)]
    sets = [list(each) for size in range(len(candidates) + 1) for each in combinations(candidates, size)]
    enough = [each for each in sets if fits(gpus, [one for one in staying if one not in each], wanted.demand)]
    match given_answer:
        case Start():
            assert fits(gpus, tenants, wanted.demand)
        case Park(holders):
            assert wanted.waiting > 0
            parked = [each for each in tenants if each.holder in holders]
            assert len(parked) == len(holders) > 0
            assert parked in enough
            assert not any(fits(gpus, [*set(staying) - set(parked), each], wanted.demand) for each in parked)
            assert cost(parked) == pytest.approx(min(map(cost, enough)))
        case Wait(until):
            assert not fits(gpus, tenants, wanted.demand)
            assert until > NOW
            assert wanted.waiting == 0 or not enough or fits(gpus, staying, wanted.demand)
        case Impossible():
            kept = [each for each in staying if each.keep or each.plugin == wanted.plugin]
            assert not fits(gpus, kept, wanted.demand)


@pytest.mark.slow
@settings(max_examples=400)
@given(host=hosts())
def test_a_plan_for_many_promises_nothing_twice(host: tuple[list[Gpu], list[Tenant], list[Need]]) -> None:
    """Whatever order the tenants and needs are given in: the same plan, all of which can be had together."""
    gpus, tenants, needs = host
    plan = plan_room(gpus, tenants, needs, NOW)
    assert plan_room(gpus[::-1], tenants[::-1], needs[::-1], NOW) == plan
    assert {each.plugin for each, _ in plan} == {each.plugin for each in needs}
    parked = [holder for _, each in plan if isinstance(each, Park) for holder in each.holders]
    assert len(parked) == len(set(parked))
    held = [each for each in tenants if each.holder not in parked and each.state != "closing"]
    for number, (each, given_answer) in enumerate(plan):
        if isinstance(given_answer, Start | Park):
            assert len(set(given_answer.uuids)) == each.demand.count
            here = [gpu for gpu in gpus if gpu.uuid in given_answer.uuids]
            assert fits(here, held, each.demand)
            memory = None if each.demand.exclusive else each.demand.memory
            held.append(Tenant(each.plugin, 100 + number, given_answer.uuids, memory))


def test_a_run_counts_less_as_time_passes() -> None:
    use = RecentUse()
    use.count(NOW)
    use.count(NOW)
    assert (use.value(NOW), use.value(NOW + HALF_LIFE), use.value(NOW - 1)) == (2.0, 1.0, 2.0)
    use.count(NOW + HALF_LIFE)
    assert use.value(NOW + 2 * HALF_LIFE) == 1.0


@pytest.mark.parametrize(
    ("fields", "parked", "starts"),
    [
        ({}, False, True),
        ({"idle": {"after": "10m"}}, False, True),
        ({}, True, True),
        ({"idle": {"after": "10m"}}, True, False),
        ({"requires_gpu": True}, True, False),
        ({"requires_gpu": True, "idle": {"keep": True}}, True, True),
    ],
)
def test_what_may_be_parked_waits_for_a_call_where_the_operator_says_so(
    fields: dict[str, Any], parked: bool, starts: bool
) -> None:
    """Everything else starts with the orchestrator."""
    manifest = Manifest.model_validate({**MINIMAL, **fields})
    assert starts_uncalled(manifest, Settings(parked=parked)) is starts
