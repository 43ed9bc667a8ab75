"""Values as text in sentences."""

import pytest

from orchestrator.formatting import format_duration, format_size, gib, quoted

MIB = 1024**2


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (128 * MIB, "128 MiB"),
        (1024 * MIB, "1 GiB"),
        (1 << 43, "8192 GiB"),
    ],
)
def test_sizes_read_as_a_manifest_writes_them(size: int, text: str) -> None:
    """In the largest unit that they fill."""
    assert format_size(size) == text


def test_sizes_that_are_compared_are_of_one_unit() -> None:
    """However small they are."""
    assert [gib(512 * MIB), gib(1536 * MIB), gib(80 * 1024 * MIB)] == ["0.5 GiB", "1.5 GiB", "80.0 GiB"]


def test_what_a_caller_sent_is_quoted_in_short_and_on_one_line() -> None:
    """It may be anything, and of any length."""
    assert quoted("no\nname") == r"'no\nname'"
    assert quoted("x" * 5000) == "'" + "x" * 80 + "'"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (8.9, "8 s"), (59.9, "59 s"), (60, "1 min"), (275, "4 min"), (3599, "59 min"), (4500, "1 h 15 min")],
)
def test_a_duration_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
