"""A start on an engine that is known to run no plugin: the verdict is what happened, and says why most likely."""

from dataclasses import replace

import pytest
from support.harness import Harness, eventually

from orchestrator.containers.spec import EngineInfo

SNAP = {"data_dir": "/var/snap/docker/common/var-lib-docker"}
OLD = {"version": "20.10.5+dfsg1"}


@pytest.fixture
def of_kind(harness: Harness, monkeypatch: pytest.MonkeyPatch):
    """Makes the engine one with these facts."""
    info = harness.engine.info

    def change(facts: dict[str, str]) -> None:
        async def changed() -> EngineInfo:
            return replace(await info(), **facts)

        monkeypatch.setattr(harness.engine, "info", changed)

    return change


@pytest.mark.parametrize(
    ("facts", "exit_code", "said"),
    [(SNAP, 255, "the engine is Docker's snap"), (OLD, 1, "before 20.10.10 its seccomp profile"), ({}, 255, "")],
)
async def test_a_container_that_exits_at_once(harness, of_kind, facts, exit_code, said) -> None:
    of_kind(facts)
    harness.add("reader", start=[(60.0, {"phase": "ready"})])
    await harness.open()
    await eventually(lambda: bool(harness.runtimes["reader"].instances), "its container runs")
    harness.instance("reader").leave(exit_code)
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "EXITED"
    assert f"exit code {exit_code}" in health["reason"]
    assert (said in health["reason"]) and (bool(said) == ("the engine's doing" in health["reason"]))


async def test_what_a_plugin_does_later_is_its_own(harness, of_kind) -> None:
    of_kind(SNAP)
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.instance("reader").leave(3)
    health = await harness.until_state("reader", "FAILED")
    assert "snap" not in health["reason"]
