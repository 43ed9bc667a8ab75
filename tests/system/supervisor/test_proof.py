"""Proof of an instance by its sample calls: what passes, what it is blamed for, and that nobody else notices."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace as changed
from support.giving_files import open_with_giver
from support.harness import Harness
from support.scripted_tools import InvalidInput

from orchestrator.gpus import Grant
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.samples import read_samples
from orchestrator.sandbox.call import Outcome
from orchestrator.sandbox.sandbox_runner import PluginSandboxRunner
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.proof import Proof, prove, samples_of


def double(number: int) -> dict[str, Any]:
    return {"doubled": number * 2}


def measure(image: bytes, scale: float = 1.0) -> list[float]:
    if not image.startswith(b"PNG"):
        raise InvalidInput("this is no picture")
    return [len(image) * scale]


def fails() -> None:
    raise ValueError("no such model" + "!" * 1000)


def slow() -> Any:
    return asyncio.sleep(30)


SOON = {"update": {"observe": "50ms"}}
"""Of a manifest: how long an instance must stay well after its calls."""
TOOLS: dict[str, Callable[..., Any]] = {"double": double, "measure": measure, "fails": fails, "slow": slow}


async def opened(harness: Harness, calls: str = "", *, tools: dict[str, Callable[..., Any]] | None = None) -> Instance:
    files = {"samples/page.png": b"PNG.......", "samples/calls.yaml": calls.encode()}
    harness.add("reader", tools=tools or TOOLS, files=files if calls else {}, failure_policy="tolerant", **SOON)
    await harness.open()
    await harness.until_state("reader", "INITIALIZED")
    return instance_of(harness, "reader")


def instance_of(harness: Harness, name: str) -> Instance:
    assert harness.app is not None
    instance = harness.app.state.context.fleet.get(name).instance
    assert isinstance(instance, Instance)
    return instance


async def proof_of(harness: Harness, instance: Instance, **options: Any) -> Proof:
    samples = samples_of(harness.plugins / instance.manifest.name)
    runner = PluginSandboxRunner(max_result=1_000_000, reader_idle=1)
    return await prove(runner, instance, samples, **options)


GOOD = """
- tool: double
  arguments: {number: 2}
  expect: {equals: {doubled: 4}}
- tool: measure
  files: {image: page.png}
  arguments: {scale: 1.5}
  expect: {equals: [15.001], tolerance: 1%}
- tool: measure
  files: {image: calls.yaml}
  expect: {status: 422, contains: no picture}
"""


async def test_an_instance_whose_answers_are_as_expected_is_proven(harness: Harness) -> None:
    instance = await opened(harness, GOOD)
    assert await proof_of(harness, instance) == Proof(None, "3 calls of samples/calls.yaml passed.")


async def test_nobody_else_notices_the_calls(harness: Harness) -> None:
    """No run, no counter, no event, no change of state; the instance serves on."""
    instance = await opened(harness, GOOD)
    before = await harness.health("reader")
    assert (await proof_of(harness, instance)).verdict is None
    after = await harness.health("reader")
    ignored = {"uptime_seconds", "observed_at", "container", "instances"}
    assert {k: v for k, v in after.items() if k not in ignored} == {k: v for k, v in before.items() if k not in ignored}
    assert (await harness.client.get("/v1/runs")).json() == []
    assert len(harness.instance("reader").run_ids) == len(set(harness.instance("reader").run_ids)) == 3
    assert (await harness.run("reader", "double", number=4)).json()["result"] == {"doubled": 8}


async def test_without_sample_calls_the_start_is_the_proof(harness: Harness) -> None:
    instance = await opened(harness)
    assert await proof_of(harness, instance) == Proof(None, "Proven by its start alone: it has no samples/calls.yaml.")


async def test_calls_that_need_a_gpu_are_left_out_where_there_is_none(harness: Harness) -> None:
    instance = await opened(harness, "- {tool: fails, needs: gpu}\n- {tool: double, arguments: {number: 1}}")
    proof = await proof_of(harness, instance)
    assert proof == Proof(None, "1 call of samples/calls.yaml passed; 1 was left out, since it needs a GPU.")
    instance.grant = Grant("x", "reader", ())
    proof = await proof_of(harness, instance)
    assert proof.verdict is not None
    assert proof.verdict.code is ReasonCode.TOOL_ERROR


async def test_where_all_calls_need_a_gpu_that_is_said(harness: Harness) -> None:
    instance = await opened(harness, "- {tool: fails, needs: gpu}")
    sentence = "Proven by its start alone: the calls of samples/calls.yaml need a GPU, and it has none."
    assert await proof_of(harness, instance) == Proof(None, sentence)


PLACE = "Call 2 of samples/calls.yaml ({tool}, line 2)"


@pytest.mark.parametrize(
    ("call", "code", "sentence"),
    [
        (
            "{tool: double, arguments: {number: 2}, expect: {equals: {doubled: 5}}}",
            ReasonCode.INVALID_OUTPUT,
            ": expected result.doubled to be 5, got 4. Correct the plugin or the call, then update again.",
        ),
        (
            "{tool: double, arguments: {count: 2}}",
            ReasonCode.INVALID_OUTPUT,
            ": expected status 200, got status 422 (",
        ),
        (
            "{tool: measure, files: {image: calls.yaml}}",
            ReasonCode.INVALID_OUTPUT,
            ": expected status 200, got status 422 (this is no picture).",
        ),
        (
            "{tool: double, arguments: {number: 2}, expect: {status: 422}}",
            ReasonCode.INVALID_OUTPUT,
            ": expected status 422, got status 200.",
        ),
        ("{tool: treble}", ReasonCode.INVALID_OUTPUT, ": expected status 200, got status 404 ("),
        ("{tool: fails}", ReasonCode.TOOL_ERROR, " failed: it raised ValueError: no such model!!!"),
        ("{tool: fails, expect: {status: 422}}", ReasonCode.TOOL_ERROR, " failed: it raised ValueError: no such model"),
    ],
)
async def test_the_first_unexpected_answer_is_the_verdict(
    harness: Harness, call: str, code: ReasonCode, sentence: str
) -> None:
    """Its place, what was expected, what came: bounded, and nothing of this host."""
    instance = await opened(harness, "- {tool: double, arguments: {number: 1}}\n- " + call + "\n- {tool: slow}")
    proof = await proof_of(harness, instance)
    assert proof.verdict is not None
    assert proof.verdict.code is code
    tool = call.partition("tool: ")[2].partition(",")[0].rstrip("}")
    assert proof.verdict.reason.startswith(PLACE.format(tool=tool) + sentence)
    assert len(proof.verdict.reason) < 800
    assert str(harness.plugins) not in proof.verdict.reason
    assert proof.sentence == "1 of 3 calls of samples/calls.yaml passed."
    assert len(harness.instance("reader").run_ids) == 2


async def test_a_traceback_goes_with_the_verdict(harness: Harness) -> None:
    instance = await opened(harness, "- {tool: fails}")
    verdict = (await proof_of(harness, instance)).verdict
    assert verdict is not None
    assert "in fails" in verdict.traceback
    assert verdict.evidence["sample_call"] == 1


async def test_a_call_may_take_no_longer_than_any_run(harness: Harness) -> None:
    instance = await opened(harness, "- {tool: slow}")
    instance.limits = changed(instance.limits, timeout=0.05)
    verdict = (await proof_of(harness, instance)).verdict
    assert verdict is not None
    assert verdict.code is ReasonCode.TIMEOUT
    assert verdict.reason.startswith("Call 1 of samples/calls.yaml (slow, line 1) failed: slow ran longer than 0.05 s.")


async def test_all_calls_together_are_bounded(harness: Harness) -> None:
    instance = await opened(harness, "- {tool: double, arguments: {number: 1}}\n- {tool: slow}")
    verdict = (await proof_of(harness, instance, seconds=0.2)).verdict
    assert verdict is not None
    assert verdict.code is ReasonCode.TIMEOUT
    assert "took longer than 0.2 s together; call 2 of samples/calls.yaml (slow, line 2)" in verdict.reason


async def test_an_instance_that_dies_says_of_what(harness: Harness) -> None:
    """The end's own verdict, and not that an answer broke off."""
    instance = await opened(harness, "- {tool: slow}")
    proving = asyncio.create_task(proof_of(harness, instance))
    while not harness.instance("reader").run_ids:
        await asyncio.sleep(0.005)
    await harness.instance("reader").worker_exits(signal=11)
    verdict = (await proving).verdict
    assert verdict is not None
    assert verdict.code is ReasonCode.CRASHED
    assert verdict.reason.startswith("It ended while call 1 of samples/calls.yaml (slow, line 1) was made: The worker")


async def test_an_instance_that_has_ended_is_not_proven(harness: Harness) -> None:
    instance = await opened(harness, GOOD)
    assert (await harness.client.post("/v1/plugins/reader/stop")).status_code == 200
    for calls in (samples_of(harness.plugins / "reader"), ()):
        proof = await prove(PluginSandboxRunner(max_result=1000, reader_idle=1), instance, calls)
        assert proof.verdict is not None
        assert proof.verdict.code is ReasonCode.STOPPED


async def test_calls_that_cannot_be_made_are_refused_beforehand(harness: Harness) -> None:
    """Before anything is built or begun."""
    harness.add("reader", tools=TOOLS, files={"samples/calls.yaml": b"- {tool: measure, files: {image: page.png}}"})
    with pytest.raises(InstanceEndedError) as refused:
        samples_of(harness.plugins / "reader")
    assert refused.value.verdict.code is ReasonCode.MANIFEST_INVALID
    assert "samples/page.png cannot be read on this host" in refused.value.verdict.reason
    (harness.plugins / "reader" / "samples" / "calls.yaml").write_text("- {tools: x}")
    with pytest.raises(InstanceEndedError, match="line 1: tool: required field is missing"):
        samples_of(harness.plugins / "reader")


async def test_a_file_that_vanishes_meanwhile_is_no_defect(harness: Harness) -> None:
    instance = await opened(harness, GOOD)
    samples = read_samples(harness.plugins / "reader")
    (harness.plugins / "reader" / "samples" / "page.png").unlink()
    proof = await prove(PluginSandboxRunner(max_result=1000, reader_idle=1), instance, samples)
    assert proof.verdict is not None
    assert proof.verdict.code is ReasonCode.MANIFEST_INVALID


@pytest.mark.slow
async def test_files_are_judged_by_kind_and_size(harness: Harness) -> None:
    """By the real runtime. Nothing of them is stored."""
    await open_with_giver(harness, **SOON)
    instance = instance_of(harness, "giver")
    folder = harness.plugins / "giver"
    (folder / "samples").mkdir()
    call = "- {tool: report, expect: {contains: {count: 2}, files: [%s]}}"
    kinds = "{media_type: image/png, min_size: 50}, {media_type: image/png}, {max_size: 1KiB}, {media_type: video/mp4}"
    (folder / "samples" / "calls.yaml").write_text(call % kinds)
    assert (await proof_of(harness, instance)).verdict is None
    (folder / "samples" / "calls.yaml").write_text(call % kinds.replace("max_size: 1KiB", "min_size: 1KiB"))
    verdict = (await proof_of(harness, instance)).verdict
    assert verdict is not None
    assert "expected file 3 to have at least 1 KiB, got 8 B" in verdict.reason
    assert not [path for path in harness.settings.state_dir.rglob("*") if path.suffix in (".png", ".csv", ".mp4")]


def test_every_outcome_of_a_run_is_thought_of() -> None:
    """Those that the plugin or its instance answers for have a verdict of their own; the rest is compared."""
    own = {Outcome.PLUGIN_FAILED, Outcome.TIMEOUT, Outcome.UNAVAILABLE}
    compared = {
        Outcome.OK,
        Outcome.BAD_REQUEST,
        Outcome.UNKNOWN_TOOL,
        Outcome.TOO_LARGE,
        Outcome.UNSUPPORTED_MEDIA_TYPE,
        Outcome.INVALID_ARGUMENTS,
        Outcome.INVALID_INPUT,
    }
    not_of_one_instance = {
        Outcome.UNKNOWN_PLUGIN,
        Outcome.CALLER_DISCONNECTED,
        Outcome.UPLOAD_STALLED,
        Outcome.RUN_ID_TAKEN,
        Outcome.QUEUE_FULL,
        Outcome.CANCELLED,
    }
    assert own | compared | not_of_one_instance == set(Outcome)
