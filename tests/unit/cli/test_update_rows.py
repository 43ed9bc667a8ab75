"""Updates as an operator reads them."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from orchestrator.cli.update_rows import step_lines, update_failed, update_sentence, updates_table
from orchestrator.health.update_report import update_report
from orchestrator.lifecycle import ReasonCode
from orchestrator.supervisor.update import ReleaseName, UpdateStep, proposed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def answer(step: str, **changes: Any) -> dict[str, Any]:
    """As the API gives it."""
    update = proposed("4f2a", "reader", NOW, current=ReleaseName("a", "1.2.0"))
    update = replace(
        update,
        step=UpdateStep(step),
        to_release=ReleaseName("b", "1.3.0"),
        strategy="overlap",
        strategy_reason="there is room for a second instance",
        **changes,
    )
    return update_report(update).model_dump(mode="json")


FAILED = {"reason_code": ReasonCode.TIMEOUT, "reason": "It hung."}


@pytest.mark.parametrize(
    ("step", "changes", "sentence"),
    [
        ("PROPOSED", {}, "reader: its folder is checked, its image is built."),
        ("STARTING", {}, "reader: an instance of 1.3.0 starts."),
        ("PROVING", {}, "reader: 1.3.0 is being proven."),
        ("SWITCHED", {"replicas": 3, "switched": (4, 5)}, "reader: 2 of 3 instances are of 1.3.0."),
        ("SETTLED", {"proof": "3 calls passed."}, "reader is 1.3.0 now. 3 calls passed."),
        ("SETTLED", FAILED, "reader: the update to 1.3.0 stopped. TIMEOUT: It hung."),
        ("REVERTED", {}, "reader was 1.3.0, and went back."),
        ("REJECTED", FAILED, "reader stays what it was (1.2.0): the update was rejected. TIMEOUT: It hung."),
    ],
)
def test_a_sentence_says_what_serves(step: str, changes: dict[str, Any], sentence: str) -> None:
    assert update_sentence(answer(step, **changes)) == sentence


def test_what_did_not_come_to_its_end_is_an_error() -> None:
    assert update_failed(answer("REJECTED", **FAILED))
    assert update_failed(answer("SETTLED", **FAILED))
    assert not update_failed(answer("SETTLED"))
    assert not update_failed(answer("PROVING"))


def test_each_instance_that_takes_over_has_a_line_with_its_own_time() -> None:
    """Of those from before the update there is none."""
    times = tuple(NOW + timedelta(seconds=at) for at in (10, 75))
    update = answer("SWITCHED", replicas=3, switched=(2, 4, 5), switch_times=times)
    update["step_times"] = {"PROPOSED": NOW.isoformat(), "SWITCHED": times[0].isoformat()}
    first = dict(update, replicas_updated=2, switch_times=update["switch_times"][:1])
    seen: set[str] = set()
    shown = [str(line) for line in (*step_lines(first, seen), *step_lines(update, seen))]
    local = [f"{at.astimezone():%H:%M:%S}" for at in (NOW, *times)]
    assert [line[:8] for line in shown] == local
    assert shown[1].endswith("2 of 3 instances are of 1.3.0")
    assert shown[2].endswith("3 of 3 instances are of 1.3.0")
    assert [str(line)[:8] for line in step_lines(update, set())] == local


def test_a_table_lists_them() -> None:
    console = Console(width=140, file=io.StringIO())
    console.print(updates_table([answer("SWITCHED"), answer("REJECTED", **FAILED)]))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "1.2.0" in text
    assert "TIMEOUT: It hung." in text
    assert text.index("SWITCHED") < text.index("REJECTED")
