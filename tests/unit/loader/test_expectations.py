"""What an author may expect of an answer, and in which words a difference is told."""

from typing import Any

import pytest

from orchestrator.loader.expectations import difference
from orchestrator.loader.samples import Expectation

BOXES = {"boxes": [{"label": "cup", "score": 0.912, "at": [1, 2]}, {"label": "person", "score": 0.5, "at": [3, 4]}]}


def told(expect: dict[str, Any], result: Any, **answer: Any) -> str | None:
    return difference(
        Expectation.model_validate(expect),
        status=answer.pop("status", 200),
        result=result,
        error=answer.pop("error", None),
        **answer,
    )


@pytest.mark.parametrize(
    ("expect", "result"),
    [
        ({}, None),
        ({"status": 200}, {"a": 1}),
        ({"equals": None}, None),
        ({"equals": 1}, 1.0),
        ({"equals": BOXES}, BOXES),
        ({"equals": {"a": [1.0, {"b": 2}]}, "tolerance": 0.1}, {"a": [1.05, {"b": 2.1}]}),
        ({"equals": 10**400}, 10**400),
        ({"equals": [100, -200], "tolerance": "2%"}, [102, -204]),
        ({"contains": "cup"}, BOXES),
        ({"contains": "label"}, BOXES),
        ({"contains": "er"}, ["person"]),
        ({"contains": "371"}, "1371\n"),
        ({"contains": {"boxes": [{"label": "person"}]}}, BOXES),
        ({"contains": {"boxes": [{"label": "cup", "score": 0.9}]}, "tolerance": 0.02}, BOXES),
        ({"contains": [2, 1]}, [1, 2, 3]),
        ({"contains": 2}, [1, 2, 3]),
        ({"contains": False}, False),
        ({"min_items": 2}, [1, 2]),
        ({"min_items": 1}, {"a": 1}),
    ],
)
def test_what_is_as_expected(expect: dict[str, Any], result: Any) -> None:
    assert told(expect, result) is None


@pytest.mark.parametrize(
    ("expect", "result", "sentence"),
    [
        ({"equals": None}, 0, "expected result to be null, got 0"),
        ({"equals": 1}, True, "expected result to be 1, got true"),
        ({"equals": True}, 1, "expected result to be true, got 1"),
        ({"equals": "1"}, 1, 'expected result to be "1", got 1'),
        ({"equals": 1}, 1.001, "expected result to be 1, got 1.001"),
        ({"equals": 1, "tolerance": 0.1}, 1.2, "expected result to be 1 ± 0.1, got 1.2"),
        (
            {"equals": {"a": [0, 100]}, "tolerance": "1%"},
            {"a": [0, 102]},
            "expected result.a[1] to be 100 ± 0.01 of it",
        ),
        ({"equals": {"a": 1}}, {}, "expected result to have the field a, got {}"),
        ({"equals": {"a": 1}}, {"a": 1, "b": 2}, "expected result without the field b"),
        ({"equals": {"a": [1]}}, {"a": [1, 2]}, "expected result.a to have 1 items, got 2"),
        ({"equals": {"a": 1}}, [1], 'expected result to be {"a": 1}, got [1]'),
        ({"contains": "cat"}, BOXES, 'expected a result that contains "cat", got {"boxes": '),
        ({"contains": "0.5"}, BOXES, "expected a result that contains"),
        ({"contains": {"boxes": [{"label": "cup", "score": 0.9}]}}, BOXES, "expected a result that contains"),
        ({"contains": {"boxes": [{"label": "pers"}]}}, BOXES, "expected a result that contains"),
        ({"contains": [1, 4]}, [1, 2, 3], "expected a result that contains [1, 4]"),
        ({"contains": [1]}, {"a": 1}, "expected a result that contains [1]"),
        ({"contains": 1}, [True], "expected a result that contains 1"),
        ({"min_items": 3}, [1, 2], "expected at least 3 items, got 2"),
        ({"min_items": 0}, 7, "expected at least 0 items, got 7"),
    ],
)
def test_what_is_not_is_told(expect: dict[str, Any], result: Any, sentence: str) -> None:
    found = told(expect, result)
    assert found is not None
    assert found.startswith(sentence)


def test_a_refused_call_is_told_with_its_error() -> None:
    assert told({}, None, status=422, error="no picture") == "expected status 200, got status 422 (no picture)"


def test_an_expected_refusal() -> None:
    expect = {"status": 422, "contains": "no picture"}
    assert told(expect, None, status=422, error="this is no picture at all") is None
    assert told(expect, None, status=422, error="empty") == 'expected an error that contains "no picture", got "empty"'
    assert told(expect, None, status=422) == 'expected an error that contains "no picture", got null'
    assert told(expect, {"a": 1}) == "expected status 422, got status 200"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([("image/png", 2048)], None),
        ([("image/png; q=1", 2048)], None),
        ([("image/png", 2048), ("image/png", 2048)], "expected 1 files, got 2"),
        ([], "expected 1 files, got 0"),
        ([("image/jpeg", 2048)], "expected file 1 to be image/png, got image/jpeg"),
        ([("image/png", 1023)], "expected file 1 to have at least 1 KiB, got 1023 B"),
        ([("image/png", 5000)], "expected file 1 to have at most 4 KiB, got 4.9 KiB"),
    ],
)
def test_files(files: list[tuple[str, int]], sentence: str | None) -> None:
    expect = {"files": [{"media_type": "image/png", "min_size": "1KiB", "max_size": "4KiB"}]}
    assert told(expect, None, files=files) == sentence


def test_a_sentence_has_no_megabytes() -> None:
    text = "x" * 1_000_000
    for found in (
        told({"equals": "a"}, text),
        told({"contains": "a"}, {text: [text]}),
        told({"equals": {}}, {text: 1}),
        told({}, None, status=422, error=text),
    ):
        assert found is not None
        assert len(found) < 500
