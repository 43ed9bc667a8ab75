"""A start on an engine that is known to run no plugin: the verdict is what happened, and says why most likely."""

from dataclasses import replace

import pytest
from support.harness import Harness

from orchestrator.containers.spec import EngineInfo
from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.start_verdict import with_known_trouble

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
    ("facts", "said"),
    [(SNAP, "the engine is Docker's snap"), (OLD, "before 20.10.10 its seccomp profile"), ({}, "")],
)
async def test_a_start_that_fails(harness, of_kind, facts, said) -> None:
    of_kind(facts)
    failed = {"phase": "failed", "reason_code": "IMPORT_ERROR", "reason": "RuntimeError: can't start new thread."}
    harness.add("reader", start=[(0.1, failed)])
    await harness.open()
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "IMPORT_ERROR"
    assert health["reason"].startswith("RuntimeError: can't start new thread.")
    assert (said in health["reason"]) and (bool(said) == ("the engine's doing" in health["reason"]))


@pytest.mark.parametrize("code", [ReasonCode.EXITED, ReasonCode.STARTUP_TIMEOUT, ReasonCode.INIT_ERROR])
def test_what_an_engine_may_be_the_cause_of(code: ReasonCode) -> None:
    assert with_known_trouble(Verdict(code, "It exited."), "it is odd").reason.startswith("It exited. Most likely")


@pytest.mark.parametrize("code", [ReasonCode.MODEL_MISSING, ReasonCode.GPU_BUSY, ReasonCode.STOPPED])
def test_what_no_engine_is_the_cause_of(code: ReasonCode) -> None:
    assert with_known_trouble(Verdict(code, "It is missing."), "it is odd").reason == "It is missing."


async def test_what_a_plugin_does_later_is_its_own(harness, of_kind) -> None:
    of_kind(SNAP)
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.instance("reader").leave(3)
    health = await harness.until_state("reader", "FAILED")
    assert "snap" not in health["reason"]
