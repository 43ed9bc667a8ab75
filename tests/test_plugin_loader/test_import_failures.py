"""A plugin whose import fails is FAILED with the root cause; other plugins are not affected."""

from typing import Any

import pytest
from support.harness import Harness

CHAIN = "No module named 'yolo_ops' (needed by yolo.models, imported by tracker.plugin). Install it, then restart."
TRACEBACK = "File \"/plugin/tracker/plugin.py\", line 3, in <module>\nModuleNotFoundError: No module named 'yolo_ops'"


def failing(code: str, reason: str, **more: Any) -> list[tuple[float, dict[str, Any]]]:
    """Statuses of a runtime that cannot start."""
    return [(0.0, {"phase": "failed", "reason_code": code, "reason": reason, **more})]


async def test_a_failed_import_is_reported_with_its_root_cause(harness: Harness) -> None:
    """FAILED; the runtime's finding is the reason, its traceback is in the post-mortem."""
    harness.add("tracker", start=failing("IMPORT_ERROR", CHAIN, traceback=TRACEBACK))
    await harness.open()
    health = await harness.until_removed("tracker")
    assert (health["state"], health["reason_code"], health["reason"]) == ("FAILED", "IMPORT_ERROR", CHAIN)
    assert health["post_mortem"]["traceback"] == TRACEBACK


async def test_a_plugin_that_cannot_be_imported_hides_no_other(harness: Harness) -> None:
    """The good ones start and run."""
    harness.add("tracker", start=failing("IMPORT_ERROR", CHAIN))
    harness.add("reader", tools={"read": lambda: "text"})
    client = await harness.open()
    await harness.settled("reader")
    answer = await harness.run("reader", "read")
    assert answer.json()["result"] == "text"
    assert [p["name"] for p in (await client.get("/v1/plugins")).json()] == ["reader", "tracker"]


async def test_a_plugin_that_cannot_be_imported_answers_503_with_its_reason(harness: Harness) -> None:
    """The caller learns what the operator has to do."""
    harness.add("tracker", start=failing("IMPORT_ERROR", CHAIN))
    await harness.open()
    await harness.until_state("tracker", "FAILED")
    answer = await harness.run("tracker", "track")
    body = answer.json()
    assert (answer.status_code, body["reason_code"], body["error"]) == (503, "IMPORT_ERROR", CHAIN)
    assert (body["ok"], body["source"]) == (False, "orchestrator")


async def test_a_library_that_is_missing_deep_in_a_chain_is_something_missing(harness: Harness) -> None:
    """Of several codes that an import can come to, CUDA's makes the plugin UNAVAILABLE."""
    reason = "libcudart.so.12 is missing (needed by torch, imported by yolo.models, imported by video_tracker.plugin)"
    harness.add("video-tracker", start=failing("CUDA_UNAVAILABLE", reason))
    await harness.open()
    health = await harness.settled("video-tracker")
    assert (health["state"], health["reason_code"], health["reason"]) == ("UNAVAILABLE", "CUDA_UNAVAILABLE", reason)


@pytest.mark.parametrize(
    ("end", "code", "phrase"),
    [({"exit_code": 3}, "EXITED", "exit code 3"), ({"signal": 11}, "CRASHED", "SIGSEGV")],
    ids=["it exits", "it crashes"],
)
async def test_an_import_that_ends_the_process_is_reported_too(
    harness: Harness, end: dict[str, int], code: str, phrase: str
) -> None:
    """Without any exception: how the worker ended is the reason."""
    harness.add(
        "tracker", start=[(0.0, {"phase": "exited", "worker": {"pid": 7, "exit_code": None, "signal": None} | end})]
    )
    await harness.open()
    health = await harness.settled("tracker")
    assert (health["state"], health["reason_code"]) == ("FAILED", code)
    assert phrase in health["reason"]


@pytest.mark.parametrize(("code", "reason"), [("NO_SUCH_CODE", "it broke"), (None, None), (5, ["it broke"])])
async def test_a_malformed_failure_is_still_a_failure(harness: Harness, code: Any, reason: Any) -> None:
    """Whatever an image's own runtime reports, the plugin is FAILED with a sentence."""
    harness.add("tracker", start=failing(code, reason))
    await harness.open()
    health = await harness.settled("tracker")
    assert (health["state"], health["reason_code"]) == ("FAILED", "INIT_ERROR")
    assert health["reason"]
