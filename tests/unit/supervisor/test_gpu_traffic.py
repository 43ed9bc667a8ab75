"""Plugins that share too few GPUs, under random traffic: the plan of `parking` in a simulated host.

The model of arrival: a number of callers, each of which makes its next call once its last one is answered. So calls
wait together, and one start answers all that wait for the plugin. One caller alone leaves nothing to choose but whom to
park, and no choice that does not know the future comes near the best one then.
"""

import math
import random
from collections.abc import Sequence

import pytest
from support.gpu_traffic import Host, Outcome, Plugin, best_swaps
from support.reliability import ReliabilityTable

from orchestrator.gpus.claims import GpuDemand, Sharing
from orchestrator.supervisor.parking import MAX_RESIDENCE, PATIENCE, Gpu

pytestmark = pytest.mark.slow

GIB = 2**30
TWO = [Gpu("GPU-a"), Gpu("GPU-b")]
CALLS = 10_000
WEIGHTS = {
    "all alike": [1.0] * 6,
    "each rarer than the last": [1 / n for n in range(1, 7)],
    "one hot": [20.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "two hot": [10.0, 10.0, 1.0, 1.0, 1.0, 1.0],
}


def plugins(random_: random.Random, count: int = 6) -> list[Plugin]:
    return [
        Plugin(
            f"p{n}", start=random_.uniform(2, 20), run=random_.uniform(0.05, 0.5), concurrency=random_.choice([1, 4])
        )
        for n in range(count)
    ]


def calls(random_: random.Random, weights: Sequence[float], callers: int, count: int = CALLS) -> list[list[str]]:
    """Of each caller."""
    order = random_.choices([f"p{n}" for n in range(len(weights))], weights, k=count)
    return [order[n::callers] for n in range(callers)]


def longest_wait(plugins: Sequence[Plugin], gpus: int, callers: int) -> float:
    """The bound on a call's wait. After `PATIENCE` its plugin is behind those alone that waited before it; a turn of
    each takes a start, a residence, the runs that wait and a stop, and as many turns go on at once as there are GPUs.
    """
    slowest = max(
        each.start + min(MAX_RESIDENCE, 2 * each.start) + each.run * (callers + 1) + each.stop for each in plugins
    )
    return PATIENCE + slowest * math.ceil(len(plugins) / gpus)


def check(outcome: Outcome, count: int) -> None:
    assert outcome.answered + outcome.refused == count
    assert outcome.double_grants == 0
    assert outcome.parked_young == 0


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_six_plugins_on_two_gpus(weights: list[float], reliability: ReliabilityTable) -> None:
    """16 callers, 10,000 calls in random order. Compared with two that know the future: the fewest swaps in which the
    calls can be answered in the order of their arrival, and in the order in which they were executed here, where all
    that is left to choose is whom to park.
    """
    for seed in range(2):
        random_ = random.Random(seed)
        made = plugins(random_)
        outcome = Host(TWO, made, calls(random_, weights, 16)).run()
        check(outcome, CALLS)
        assert outcome.refused == 0
        assert outcome.parked == outcome.starts - len(TWO)  # none in vain
        assert max(max(waits) for waits in outcome.waits.values()) <= longest_wait(made, 2, 16)
        came, served = best_swaps(outcome.came, 2), best_swaps(outcome.served, 2)
        case = "GPU plugins, 6 on 2 GPUs, 16 callers"
        reliability.at_most(
            f"{case}: swaps for each of the best in the order of arrival", outcome.starts / came, limit=1.2
        )
        reliability.at_most(f"{case}: the same in the order of execution", outcome.starts / served, limit=1.25)


@pytest.mark.parametrize("callers", [4, 64])
def test_fewer_and_more_callers(callers: int) -> None:
    """The more calls wait together, the fewer swaps there are."""
    random_ = random.Random(callers)
    made = plugins(random_)
    outcome = Host(TWO, made, calls(random_, WEIGHTS["all alike"], callers, 2000)).run()
    check(outcome, 2000)
    assert outcome.refused == 0
    assert outcome.starts <= {4: 1.0, 64: 0.15}[callers] * best_swaps(outcome.came, 2)


def test_one_caller_alone_costs_what_it_must() -> None:
    """Four of six plugins are not there when it calls one at random, whoever is parked; who knew the future would start
    half as often as it calls.
    """
    random_ = random.Random(1)
    outcome = Host(TWO, plugins(random_), calls(random_, WEIGHTS["all alike"], 1, 2000)).run()
    check(outcome, 2000)
    assert outcome.starts / 2000 == pytest.approx(4 / 6, abs=0.05)


def test_two_plugins_that_alternate_do_not_thrash() -> None:
    """Of their GPU's time a third is spent on starts at most, whether one caller alternates or each has its own."""
    made = [Plugin("p0", start=5.0), Plugin("p1", start=5.0)]
    for callers in (["p0", "p1"] * 100,), (["p0"] * 5000, ["p1"] * 5000):
        outcome = Host([Gpu("GPU-a")], made, callers).run()
        check(outcome, sum(map(len, callers)))
        assert outcome.starts * 5.0 <= outcome.seconds / 3 + 5.0
        assert max(max(waits) for waits in outcome.waits.values()) <= longest_wait(made, 1, len(callers))


def test_a_rare_plugin_among_hot_ones_does_not_starve() -> None:
    """The hot ones are never without a run. A rare call waits for its patience, one residence and its start at most."""
    hot = [Plugin("p0", start=4.0), Plugin("p1", start=4.0)]
    rare = Plugin("rare", start=6.0)
    arrivals = [(100.0 + 150 * n, "rare") for n in range(10)]
    callers = [[each.name] * 4000 for each in hot for _ in range(4)]
    outcome = Host(TWO, [*hot, rare], callers, arrivals=arrivals).run()
    check(outcome, 32_000 + 10)
    assert outcome.parked_busy >= 10
    assert len(outcome.waits["rare"]) == 10
    closing = 5 * 0.1 + 0.5
    assert max(outcome.waits["rare"]) <= PATIENCE + 8.0 + closing + 6.0


def test_one_that_needs_all_gpus_does_not_starve_behind_those_that_need_one() -> None:
    made = [*(Plugin(f"p{n}", start=3.0) for n in range(4)), Plugin("all", start=8.0, demand=GpuDemand(2))]
    arrivals = [(50.0 + 200 * n, "all") for n in range(5)]
    random_ = random.Random(3)
    outcome = Host(TWO, made, calls(random_, [1.0] * 4, 12, 4000), arrivals=arrivals).run()
    check(outcome, 4005)
    assert outcome.refused == 0
    assert max(outcome.waits["all"]) <= longest_wait(made, 1, 12)


@pytest.mark.parametrize("seed", range(6))
def test_hosts_of_every_kind_answer_every_call(seed: int) -> None:
    """Shares, several GPUs at once, kept plugins, demands that no GPU meets: answered, or refused for good reason."""
    random_ = random.Random(seed)
    gpus = [Gpu(f"GPU-{n}", random_.choice([16, 24, 40]) * GIB) for n in range(random_.randint(1, 4))]
    made = []
    for number in range(8):
        sharing: Sharing = random_.choice(["shared", "shared", "exclusive"])
        memory = random_.choice([2, 4, 8, 12, 24, 80]) * GIB
        made.append(
            Plugin(
                f"p{number}",
                start=random_.uniform(0.5, 12),
                run=random_.uniform(0.05, 1.0),
                demand=GpuDemand(random_.choice([1, 1, 1, 2]), memory, sharing),
                keep=number == 0,
            )
        )
    outcome = Host(gpus, made, calls(random_, [1.0] * 8, 12, 1500), pause=random_.choice([0.0, 2.0])).run()
    check(outcome, 1500)
    fit = [
        each.name
        for each in made
        if sum((gpu.memory or 0) >= (each.demand.memory or 0) for gpu in gpus) >= each.demand.count
    ]
    assert {name for name, waits in outcome.waits.items() if waits} <= set(fit)
    assert outcome.answered > 0
