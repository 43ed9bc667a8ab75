"""Placement: each host's rule, the choice among those that fit, and how replicas are spread. Pure."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.front.host_state import HostState
from orchestrator.front.placement import (
    GpuWants,
    HostFacts,
    HostGpu,
    Placement,
    PluginWants,
    Rule,
    instances_that_fit,
    named_words,
    place,
)

GIB = 1024**3
H100 = HostGpu("NVIDIA H100 80GB HBM3", 80 * GIB, 80 * GIB)
T4 = HostGpu("Tesla T4", 16 * GIB, 16 * GIB)
TAKEN = replace(H100, free=False, available=0)
MIG = HostGpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * GIB, 5 * GIB, mig=True)


def host(name: str, **facts: Any) -> HostFacts:
    return HostFacts(name, **{"memory": 64 * GIB, **facts})


def rules(placement: Placement) -> dict[str, Rule]:
    return {verdict.host: verdict.rule for verdict in placement.verdicts}


ONE = PluginWants("reader", memory=GIB)
GPU = replace(ONE, gpu=GpuWants())

REFUSED: list[tuple[str, PluginWants, HostFacts, Rule, str]] = [
    ("joining", ONE, host("a", state=HostState.JOINING), Rule.HOST_JOINING, "has not answered yet"),
    ("silent", ONE, host("a", state=HostState.STALE), Rule.HOST_STALE, "a does not answer."),
    ("silent where it serves", ONE, host("a", state=HostState.STALE, instances=1), Rule.HOST_STALE, "move --force"),
    ("drained", ONE, host("a", state=HostState.DRAINING), Rule.HOST_DRAINING, "hosts resume"),
    ("forgotten", ONE, host("a", state=HostState.FORGOTTEN), Rule.HOST_FORGOTTEN, "no longer a host"),
    ("not named", replace(ONE, hosts=("b", "c")), host("a"), Rule.NOT_NAMED, "names b, c, not a."),
    ("no label", replace(ONE, labels=(("rack", "7"),)), host("a"), Rule.LABEL_DIFFERS, "a has no label rack."),
    (
        "another label",
        replace(ONE, labels=(("rack", "7"),)),
        host("a", labels=(("rack", "8"),)),
        Rule.LABEL_DIFFERS,
        "requires label.rack: 7, and a has rack=8.",
    ),
    ("no folder", ONE, host("a", has_plugin=False), Rule.PLUGIN_MISSING, "folder of reader"),
    ("little memory", replace(ONE, memory=65 * GIB), host("a"), Rule.MEMORY_TOO_SMALL, "65.0 GiB, and a has 64.0 GiB"),
    ("no GPU", GPU, host("a"), Rule.GPU_MISSING, "a has no usable GPU."),
    (
        "another GPU",
        replace(ONE, gpu=GpuWants(name="H100")),
        host("a", gpus=(T4,)),
        Rule.GPU_NAME_DIFFERS,
        "gpu.name: H100 is required, and a has Tesla T4.",
    ),
    (
        "a small GPU",
        replace(ONE, gpu=GpuWants(size=40 * GIB)),
        host("a", gpus=(T4,)),
        Rule.GPU_TOO_SMALL,
        "A GPU of 40.0 GiB is required, and the largest of a has 16.0 GiB.",
    ),
    (
        "a small GPU for the plugin's memory",
        replace(ONE, gpu=GpuWants(memory=40 * GIB)),
        host("a", gpus=(T4,)),
        Rule.GPU_TOO_SMALL,
        "40.0 GiB",
    ),
    ("few GPUs", replace(ONE, gpu=GpuWants(2)), host("a", gpus=(H100,)), Rule.GPU_TOO_FEW, "2 GPUs are required"),
    (
        "MIG for two",
        replace(ONE, gpu=GpuWants(2)),
        host("a", gpus=(MIG, MIG)),
        Rule.GPU_TOO_FEW,
        "0 that suit (a MIG instance serves a plugin with one GPU alone)",
    ),
]


@pytest.mark.parametrize(
    ("wants", "facts", "rule", "sentence"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_host_is_refused_by_a_rule(wants: PluginWants, facts: HostFacts, rule: Rule, sentence: str) -> None:
    """Which says what was wanted and what the host has."""
    found = place(wants, [facts])
    assert (found.chosen, found.spare) == ({}, ())
    assert rules(found) == {"a": rule}
    assert sentence in found.verdicts[0].sentence


def test_one_host_is_chosen_and_the_others_say_why_not() -> None:
    found = place(ONE, [host("a", committed=32 * GIB), host("b"), host("c", state=HostState.DRAINING)])
    assert found.chosen == {"b": 1}
    assert rules(found) == {"a": Rule.ENOUGH_HOSTS, "b": Rule.FITS, "c": Rule.HOST_DRAINING}
    assert found.verdicts[0].sentence == "On a it would fit, and placement.hosts is met by b."
    assert found.order == ("b", "a")


def test_what_serves_stays_where_it_is() -> None:
    """Whatever would be better now."""
    found = place(ONE, [host("a", committed=60 * GIB, instances=1), host("b", has_image=True, has_models=True)])
    assert found.chosen == {"a": 1}
    assert rules(found)["a"] is Rule.SERVES


@pytest.mark.parametrize("state", [HostState.STALE, HostState.DRAINING])
def test_an_instance_on_a_host_that_takes_nothing_new_has_its_place(state: HostState) -> None:
    """It is not started a second time; `leaving` says that it is moved away."""
    hosts = [host("a", state=state, instances=1), host("b")]
    assert place(ONE, hosts).chosen == {}
    assert place(replace(ONE, hosts=2), hosts).chosen == {"b": 1}
    assert place(ONE, hosts, leaving={"a"}).chosen == {"b": 1}


def test_of_hosts_about_equally_used_one_with_models_and_image_is_taken() -> None:
    full, image = host("full", committed=48 * GIB, has_image=True, has_models=True), host("image", has_image=True)
    models = host("models", committed=GIB, has_models=True)
    assert place(ONE, [full, image, models, host("a")]).order == ("models", "image", "a", "full")


def test_packing_takes_the_fuller_host() -> None:
    hosts = [host("a"), host("b", committed=32 * GIB)]
    assert place(replace(ONE, pack=True), hosts).chosen == {"b": 1}


def test_a_host_whose_gpus_are_taken_comes_last() -> None:
    """It is not refused: it may park an idle plugin for this one."""
    found = place(GPU, [host("a", gpus=(TAKEN,)), host("b", gpus=(H100,), committed=63 * GIB)])
    assert found.order == ("b", "a")
    alone = place(GPU, [host("a", gpus=(TAKEN,))])
    assert (alone.chosen, rules(alone)) == ({"a": 1}, {"a": Rule.GPU_BUSY})


def test_replicas_go_where_gpus_are_free() -> None:
    hosts = [host("a", gpus=(H100, H100, H100)), host("b", gpus=(H100, TAKEN))]
    assert place(replace(GPU, hosts="all", replicas=4), hosts).chosen == {"a": 3, "b": 1}
    assert place(replace(GPU, hosts="all", replicas=1), hosts).chosen == {"a": 1, "b": 1}
    assert place(replace(GPU, hosts=("b",), replicas=3), hosts).chosen == {"b": 3}


def test_sharers_fit_by_their_budget() -> None:
    half = replace(H100, free=False, shared=True, available=40 * GIB)
    shared = GpuWants(memory=16 * GIB, shared=True)
    assert instances_that_fit(shared, [half, TAKEN]) == 2
    assert instances_that_fit(shared, [H100]) == 5
    assert instances_that_fit(shared, [replace(H100, memory=None, available=None)]) == 0
    assert instances_that_fit(GpuWants(), [half]) == 0
    assert instances_that_fit(GpuWants(2), [H100, H100, H100, T4]) == 2


@pytest.mark.parametrize(
    ("name", "wanted", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA H100 80GB HBM3", "h100 80gb", True),
        ("NVIDIA A100-SXM4-40GB", "A10", False),
        ("NVIDIA A100-SXM4-40GB", "A100", True),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "1g.5gb", True),
        ("NVIDIA L40S", "L40", False),
    ],
)
def test_a_gpu_is_named_by_whole_words(name: str, wanted: str, *, found: bool) -> None:
    assert named_words(name, wanted) is found


# Properties

sizes = st.integers(0, 128).map(lambda gibs: gibs * GIB)
gpus = st.builds(
    HostGpu,
    name=st.sampled_from([H100.name, T4.name, MIG.name]),
    memory=st.none() | sizes,
    available=st.none() | sizes,
    free=st.booleans(),
    shared=st.booleans(),
    mig=st.booleans(),
)
facts = st.builds(
    HostFacts,
    name=st.just(""),
    state=st.sampled_from(HostState) | st.just(HostState.ONLINE),
    labels=st.sampled_from([(), (("rack", "7"),)]),
    memory=sizes,
    committed=sizes,
    gpus=st.lists(gpus, max_size=4).map(tuple),
    has_plugin=st.booleans() | st.just(value=True),
    has_image=st.booleans(),
    has_models=st.booleans(),
    instances=st.integers(0, 3),
)
NAMES = ("a", "b", "c", "d")
hosts_of = st.lists(facts, max_size=4).map(
    lambda found: [replace(each, name=name) for name, each in zip(NAMES, found, strict=False)]
)
wants_of = st.builds(
    PluginWants,
    plugin=st.just("reader"),
    hosts=st.integers(1, 4) | st.just("all") | st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple),
    replicas=st.integers(1, 8),
    memory=sizes,
    labels=st.sampled_from([(), (("rack", "7"),)]),
    gpu=st.none()
    | st.builds(
        GpuWants,
        count=st.integers(1, 3),
        memory=st.none() | sizes.filter(bool),
        shared=st.booleans(),
        name=st.none() | st.just("H100"),
        size=st.none() | sizes,
    ),
    pack=st.booleans(),
)
leaving_of = st.sets(st.sampled_from(NAMES), max_size=2)


@given(wants_of, hosts_of, leaving_of)
def test_nothing_new_goes_to_a_host_that_takes_nothing_new(
    wants: PluginWants, hosts: list[HostFacts], leaving: set[str]
) -> None:
    found, by_name = place(wants, hosts, leaving), {each.name: each for each in hosts}
    for name in found.order:
        chosen = by_name[name]
        assert chosen.state is HostState.ONLINE and chosen.has_plugin
        assert set(wants.labels) <= set(chosen.labels)
        assert not isinstance(wants.hosts, tuple) or name in wants.hosts
        assert chosen.serves or wants.gpu is None or len(chosen.gpus) >= wants.gpu.count


@given(wants_of, hosts_of, leaving_of)
def test_each_host_has_one_rule_with_a_sentence(wants: PluginWants, hosts: list[HostFacts], leaving: set[str]) -> None:
    found = place(wants, hosts, leaving)
    assert [verdict.host for verdict in found.verdicts] == [each.name for each in hosts]
    for verdict in found.verdicts:
        assert verdict.sentence.endswith(".") and verdict.host in verdict.sentence
        assert verdict.chosen == (verdict.host in found.chosen)
        accepted = verdict.rule in (Rule.SERVES, Rule.FITS, Rule.GPU_BUSY, Rule.ENOUGH_HOSTS)
        assert accepted == (verdict.host in found.order)


@given(wants_of, hosts_of)
def test_a_plugin_is_on_no_more_hosts_than_it_may(wants: PluginWants, hosts: list[HostFacts]) -> None:
    """With those where it may serve unseen; never fewer than there are hosts that fit."""
    found = place(wants, hosts)
    unseen = {each.name for each in hosts if each.serves} - set(found.order)
    if isinstance(wants.hosts, int):
        assert len(found.chosen) == min(max(0, wants.hosts - len(unseen)), len(found.order))
    else:
        assert not found.spare


@given(wants_of, hosts_of)
def test_replicas_are_all_placed_where_there_is_a_host(wants: PluginWants, hosts: list[HostFacts]) -> None:
    """At least one on each."""
    found = place(wants, hosts)
    unseen = sum(each.instances for each in hosts if each.name not in found.order)
    if found.chosen:
        assert min(found.chosen.values()) >= 1
        assert sum(found.chosen.values()) == max(wants.replicas - unseen, len(found.chosen))


@given(wants_of, hosts_of, st.randoms())
def test_the_order_of_hosts_changes_nothing(wants: PluginWants, hosts: list[HostFacts], random: Any) -> None:
    """Two fronts that know the same choose the same."""
    other = hosts[:]
    random.shuffle(other)
    one, two = place(wants, hosts), place(wants, other)
    assert (one.chosen, one.order) == (two.chosen, two.order)
    assert rules(one) == rules(two)


@given(wants_of, hosts_of)
def test_a_placement_that_was_carried_out_stays(wants: PluginWants, hosts: list[HostFacts]) -> None:
    """Asked again once the chosen hosts serve, it chooses the same hosts."""
    found = place(wants, hosts)
    after = [replace(each, instances=max(each.instances, found.chosen.get(each.name, 0))) for each in hosts]
    assert place(wants, after).chosen.keys() == found.chosen.keys()


@given(wants_of, hosts_of)
def test_what_serves_is_chosen_before_what_does_not(wants: PluginWants, hosts: list[HostFacts]) -> None:
    found, serving = place(wants, hosts), {each.name for each in hosts if each.serves}
    assert not (set(found.chosen) - serving and set(found.spare) & serving)
