"""Each reason code and error type is explained once, so that a person can act and a test can produce it."""

import pytest

from orchestrator.lifecycle import ReasonCode
from orchestrator.lifecycle.explanations import EXPLANATIONS, find, of_code, similar


@pytest.mark.parametrize("code", ReasonCode)
def test_a_code_says_what_it_means_what_to_do_and_how_a_test_produces_it(code: ReasonCode) -> None:
    found = of_code(code)
    assert found.meaning and found.remedy and found.happens
    assert f'orchestrator.fault("detector", "{code}")' in found.test
    assert found.state is code.final_state
    assert found.status in {502, 503, 504}


def test_nothing_else_is_called_a_reason_code() -> None:
    codes = {name for name, each in EXPLANATIONS.items() if each.kind == "reason code"}
    assert codes == {code.value for code in ReasonCode}


@pytest.mark.parametrize("each", EXPLANATIONS.values(), ids=lambda each: each.name)
def test_a_row_is_one_of_a_table(each) -> None:
    """No cell breaks the table of the page, or begins as a sentence where the others are phrases."""
    for text in (each.meaning, each.remedy, each.happens):
        assert "|" not in text and "\n" not in text
        assert not text.endswith(".")


@pytest.mark.parametrize("written", ["OUT_OF_MEMORY", "out-of-memory", "Out of memory", "outofmemory"])
def test_it_is_found_however_it_is_written(written: str) -> None:
    found = find(written)
    assert found is not None and found.name == "OUT_OF_MEMORY"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("OUT_OF_MEMROY", "OUT_OF_MEMORY"),
        ("TIMEDOUT", "TIMEOUT"),
        ("queue", "QueueFull"),
        ("GPU_MISSING", "GPU_RUNTIME_MISSING"),
        ("xyzzy", None),
    ],
)
def test_a_typing_error_is_answered_by_what_was_meant(written: str, meant: str | None) -> None:
    assert find(written) is None
    assert (meant in similar(written)) if meant else similar(written) == []
