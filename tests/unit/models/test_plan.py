"""What a pull does with a server's answer, and what gc may remove: decisions, by table."""

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.models.plan import (
    SPACE_RESERVE,
    Answer,
    PartialFile,
    Reference,
    StoredFile,
    garbage,
    judge_answer,
    missing_space,
    part_of,
    resume_headers,
    retry_delay,
    validator_of,
    wanted_files,
)

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
A, B, C, D = (letter * 64 for letter in "abcd")


@pytest.mark.parametrize(
    ("status", "headers", "size", "expected"),
    [
        (200, {"content-length": "10"}, 0, Answer("restart", total=10)),
        (200, {"content-length": "10"}, 4, Answer("restart", total=10)),
        (200, {}, 4, Answer("restart")),
        (200, {"content-length": "-1"}, 0, Answer("restart")),
        (200, {"content-length": "9" * 40}, 0, Answer("restart")),
        (206, {"content-range": "bytes 4-9/10"}, 4, Answer("append", total=10)),
        (206, {"content-range": "bytes 4-9/*"}, 4, Answer("append")),
        (206, {"content-range": "bytes 0-9/10"}, 4, Answer("again")),
        (206, {"content-range": "rubbish"}, 4, Answer("again")),
        (206, {}, 4, Answer("again")),
        (416, {"content-range": "bytes */4"}, 4, Answer("again")),
        # To a request for the whole file these are no answers, and asking once more would have no end.
        (206, {"content-range": "bytes 0-9/10"}, 0, Answer("refused", reason="it answered 206")),
        (416, {}, 0, Answer("refused", reason="it answered 416")),
        (404, {}, 0, Answer("refused", reason="it has no such file (404)")),
        (410, {}, 0, Answer("refused", reason="it has no such file (410)")),
        (401, {}, 0, Answer("refused", reason="it refuses access (401)")),
        (403, {}, 0, Answer("refused", reason="it refuses access (403)")),
        (302, {}, 0, Answer("refused", reason="it answered 302")),
        (500, {}, 0, Answer("refused", reason="it answered 500", transient=True)),
        (503, {"retry-after": "7"}, 0, Answer("refused", reason="it answered 503", transient=True, delay=7)),
        (429, {"retry-after": "Fri, 27 Nov 2026 12:00:09 GMT"}, 0,
         Answer("refused", reason="it answered 429", transient=True, delay=9)),
        (503, {"retry-after": "Fri, 27 Nov 2026 11:00:00 GMT"}, 0,
         Answer("refused", reason="it answered 503", transient=True, delay=0)),
        (503, {"retry-after": "soon"}, 0, Answer("refused", reason="it answered 503", transient=True)),
        (404, {"retry-after": "7"}, 0, Answer("refused", reason="it has no such file (404)")),
    ],
)  # fmt: skip
def test_every_answer_has_one_meaning(status: int, headers: dict[str, str], size: int, expected: Answer) -> None:
    assert judge_answer(status, headers, size, NOW) == expected


def test_a_transfer_goes_on_with_the_tag_of_the_same_address_alone() -> None:
    """Another mirror does not know the tag; its range is asked for all the same, since the hash decides."""
    assert resume_headers(0, "u", "u", '"1"') == {}
    assert resume_headers(5, "u", "u", '"1"') == {"Range": "bytes=5-", "If-Range": '"1"'}
    assert resume_headers(5, "u", "v", '"1"') == {"Range": "bytes=5-"}
    assert resume_headers(5, "u", "u", "") == {"Range": "bytes=5-"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"etag": '"abc"'}, '"abc"'),
        ({"etag": 'W/"abc"', "last-modified": "Fri, 27 Nov 2026 12:00:00 GMT"}, ""),  # weak: equal is not identical
        ({"etag": "abc"}, ""),
        ({"last-modified": "Fri, 27 Nov 2026 12:00:00 GMT"}, "Fri, 27 Nov 2026 12:00:00 GMT"),
        ({}, ""),
    ],
)
def test_only_a_strong_validator_is_used(headers: dict[str, str], expected: str) -> None:
    assert validator_of(headers) == expected


def test_delays_grow_and_are_bounded() -> None:
    """Also those that a server asks for."""
    assert [retry_delay(attempt, None, 0) for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
    assert retry_delay(1, 7, 0) == 7
    assert retry_delay(1, 1e9, 1) < 40
    assert retry_delay(1, None, 1) > retry_delay(1, None, 0)


def test_space_is_left_for_others() -> None:
    assert missing_space(SPACE_RESERVE + 10, 10) == 0
    assert missing_space(SPACE_RESERVE + 9, 10) == 1
    assert missing_space(0, 0) == 0


def test_one_file_for_several_plugins_is_fetched_once_from_all_addresses() -> None:
    """In the order in which they are declared, each once."""
    one = Reference("a", "w", "m/w.onnx", A, ("u1", "u2"))
    two = Reference("b", "v", "v.onnx", A, ("u2", "u3"))
    other = Reference("b", "x", "x.onnx", B, ("u4",))
    nothing_to_fetch = [Reference("c", "w", "w.onnx"), Reference("c", "x", "x.onnx", C)]
    first, second = wanted_files([one, two, other, *nothing_to_fetch])
    assert (first.sha256, first.urls, first.references) == (A, ("u1", "u2", "u3"), (one, two))
    assert first.label == "a: w.onnx"
    assert (second.sha256, second.urls) == (B, ("u4",))


def partial(sha256: str, *, days: float, under_way: bool = False) -> PartialFile:
    return PartialFile(sha256, 1, NOW - timedelta(days=days), under_way)


def test_gc_removes_what_no_manifest_names() -> None:
    """Except what an instance has mounted."""
    files = [StoredFile(sha256, 1) for sha256 in (A, B, C)]
    found = garbage(files, [], named={A}, mounted={B}, now=NOW)
    assert found.files == (StoredFile(C, 1),)
    assert found.mounted == (StoredFile(B, 1),)


@pytest.mark.parametrize(
    ("sha256", "days", "under_way", "removed"),
    [
        (A, 0, False, False),  # named and new: the next pull goes on from it
        (A, 6, False, False),
        (A, 8, False, True),
        (A, 8, True, False),
        (B, 0, False, True),
        (B, 0, True, False),
    ],
)
def test_gc_removes_partial_files_by_age(sha256: str, days: float, under_way: bool, removed: bool) -> None:
    """At once where no manifest names them; never while somebody fetches them."""
    found = garbage([], [partial(sha256, days=days, under_way=under_way)], named={A}, mounted=(), now=NOW)
    assert bool(found.partials) is removed


def test_how_far_it_is_is_said_in_units() -> None:
    assert part_of(512, None) == "512 B"
    assert part_of(1024**3, 4 * 1024**3) == "1 GiB of 4 GiB (25 %)"
    assert part_of(0, 0) == "0 B of 0 B (0 %)"
