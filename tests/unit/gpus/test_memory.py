"""Whose memory it was on a GPU, and who is over its budget."""

import pytest
from unit.gpus.looks import GIB

from orchestrator.gpus.memory import Holding, memory_blame, over_budget


def test_the_neighbour_over_its_budget_is_named_with_budget_and_holding():
    holdings = {"tracker": Holding(4 * GIB, 3 * GIB), "hungry": Holding(4 * GIB, 9 * GIB)}
    sentence = memory_blame("GPU-0", holdings, "tracker")
    assert sentence.startswith("The plugin tracker was out of memory on the GPU GPU-0: it held 3.0 GiB and declares")
    assert "hungry on the same GPU held 9.0 GiB and declares 4.0 GiB, which is over its budget" in sentence
    assert "Have hungry use less, or raise gpu.memory" in sentence


def test_a_victim_over_its_own_budget_is_to_blame_itself():
    sentence = memory_blame("GPU-0", {"tracker": Holding(4 * GIB, 5 * GIB), "other": Holding(4 * GIB, GIB)}, "tracker")
    assert "it held 5.0 GiB and declares 4.0 GiB, which is over its budget" in sentence
    assert "Have tracker use less" in sentence


def test_the_neighbour_is_named_first_where_both_are_over():
    holdings = {"tracker": Holding(4 * GIB, 5 * GIB), "hungry": Holding(4 * GIB, 9 * GIB)}
    assert "Have hungry use less" in memory_blame("GPU-0", holdings, "tracker")


def test_every_neighbour_over_its_budget_is_named():
    holdings = {"t": Holding(GIB, GIB), "a": Holding(GIB, 2 * GIB), "b": Holding(GIB, 2 * GIB), "c": Holding(GIB, 0)}
    assert "Have a and b use less" in memory_blame("GPU-0", holdings, "t")


@pytest.mark.parametrize("holdings", [{"tracker": Holding(4 * GIB)}, {}, {"tracker": Holding(), "other": Holding()}])
def test_where_the_driver_reports_no_memory_of_processes_that_is_said(holdings):
    sentence = memory_blame("GPU-0", holdings, "tracker")
    assert "what it held is not known" in sentence
    assert "cannot be known" in sentence
    assert "nvidia-smi" in sentence


def test_a_neighbour_known_to_be_over_is_named_though_the_victims_memory_is_unknown():
    sentence = memory_blame("GPU-0", {"t": Holding(GIB), "hungry": Holding(GIB, 9 * GIB)}, "t")
    assert "Have hungry use less" in sentence
    assert "cannot be known" not in sentence


def test_programs_that_are_no_plugins_are_named():
    sentence = memory_blame("GPU-0", {"t": Holding(4 * GIB, GIB)}, "t", other_bytes=20 * GIB)
    assert "programs that are no plugins hold 20.0 GiB" in sentence
    assert "end the other programs" in sentence


def test_where_nobody_is_over_the_budget_is_too_small():
    assert "needs more than the GPU had left" in memory_blame("GPU-0", {"t": Holding(4 * GIB, GIB)}, "t")


@pytest.mark.parametrize(
    ("holding", "over"),
    [
        (Holding(GIB, GIB), False),
        (Holding(GIB, GIB + 1), True),
        (Holding(None, 9 * GIB), False),
        (Holding(GIB, None), False),
        (Holding(GIB, 0), False),
        (Holding(0, 1), True),
    ],
)
def test_only_a_known_holding_above_a_known_budget_is_over(holding, over):
    sentence = over_budget("hungry", "GPU-0", holding)
    assert (sentence is not None) == over
    if sentence is not None:
        assert "hungry" in sentence
        assert "gpu.memory" in sentence
