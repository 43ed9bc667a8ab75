"""Out of memory on a GPU: the code, whose memory it was, and what the other plugins are told."""

from typing import Any

import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness
from support.scripted_tools import GpuOutOfMemory

WORDS = "CUDA out of memory. Tried to allocate 20.00 GiB"


def out_of_memory() -> None:
    raise GpuOutOfMemory(WORDS)


@pytest.fixture
def shared(harness: Harness) -> Harness:
    """One GPU for several plugins."""
    harness.gpus = FakeGpus(device(0))
    harness.engine.device_drivers = ("nvidia",)
    return harness


def add(harness: Harness, name: str, **manifest: Any) -> None:
    gpu = {"sharing": "shared", "memory": "4GiB"}
    harness.add(name, tools={"run": out_of_memory, "well": lambda: 1}, requires_gpu=True, gpu=gpu, **manifest)


async def test_a_tool_that_is_out_of_it_fails_its_plugin(shared: Harness) -> None:
    """502 with the code; the reason names the plugin, what it declares and held, and what to do."""
    add(shared, "tracker")
    await shared.open()
    await shared.settled("tracker")
    answer = await shared.run("tracker", "run")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "GPU_OUT_OF_MEMORY")
    assert WORDS in answer.json()["error"]
    health = await shared.until_removed("tracker")
    assert (health["state"], health["reason_code"]) == ("FAILED", "GPU_OUT_OF_MEMORY")
    for phrase in ("The tool run ran out of memory on the GPU", WORDS, "tracker", "declares 4.0 GiB", "restart"):
        assert phrase in health["reason"]
    # This driver lists no processes: that is said, not guessed.
    assert "what it held is not known" in health["reason"]


async def test_under_tolerant_it_is_counted(shared: Harness) -> None:
    """As any exception."""
    add(shared, "tracker", failure_policy="tolerant")
    await shared.open()
    await shared.settled("tracker")
    answer = await shared.run("tracker", "run")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "GPU_OUT_OF_MEMORY")
    assert (await shared.run("tracker", "well")).status_code == 200
    health = await shared.health("tracker")
    assert (health["state"], health["error_count"]) == ("RUNNING", 1)


async def test_the_neighbour_is_named(shared: Harness) -> None:
    """With what it declares."""
    for name in ("tracker", "hungry"):
        add(shared, name)
    await shared.open()
    for name in ("tracker", "hungry"):
        await shared.settled(name)
    await shared.run("tracker", "run")
    health = await shared.until_removed("tracker")
    assert "the plugin hungry on the same GPU declares 4.0 GiB" in health["reason"]
    assert (await shared.run("hungry", "well")).status_code == 200


async def test_at_the_start(shared: Harness) -> None:
    """`validate()` that does not fit: FAILED too, with whose memory it was."""
    failed = {
        "phase": "failed",
        "reason_code": "GPU_OUT_OF_MEMORY",
        "reason": f"Tracker.validate() ran out of memory on the GPU: raised OutOfMemoryError: {WORDS}; use less of it",
    }
    shared.add("tracker", start=[(0.0, failed)], requires_gpu=True, gpu={"memory": "4GiB"})
    await shared.open()
    health = await shared.settled("tracker")
    assert (health["state"], health["reason_code"]) == ("FAILED", "GPU_OUT_OF_MEMORY")
    assert "Tracker.validate()" in health["reason"]
    assert "declares 4.0 GiB" in health["reason"]


async def test_without_a_gpu_of_its_own_the_advice_is_general(harness: Harness) -> None:
    """A runtime may be wrong."""
    harness.add("reader", tools={"run": out_of_memory})
    await harness.open()
    await harness.settled("reader")
    await harness.run("reader", "run")
    health = await harness.until_removed("reader")
    assert health["reason_code"] == "GPU_OUT_OF_MEMORY"
    assert "`gpu.memory`" in health["reason"]
