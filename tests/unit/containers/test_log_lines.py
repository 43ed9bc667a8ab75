"""Docker's log stream as lines: each begins with its time, and is bounded."""

import pytest

from orchestrator.containers.docker_engine.decoding import LogLines

TIME = "2026-01-31T12:00:00.123456789Z "


def frame(text: str, stream: int = 1) -> bytes:
    data = (TIME + text).encode()
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def lines_of(*frames: bytes) -> list[str]:
    lines = LogLines()
    found = [line for data in frames for line in lines.feed(data)]
    return [*found, *lines.rest()]


def printed(*frames: bytes) -> list[str]:
    found = lines_of(*frames)
    assert all(line.startswith(TIME) for line in found), found
    return [line.removeprefix(TIME) for line in found]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\n", "one"),
        ("one\r\n", "one"),
        ("\r10 %\r20 %\n", "20 %"),
        ("10 %\r20 %\r\n", "20 %"),
        ("\r\n", ""),
        ("two words\rtwo others\n", "two others"),
    ],
)
def test_a_progress_bar_shows_its_last_state(text, shown):
    assert printed(frame(text)) == [shown]


def test_a_long_line_is_one_line_with_one_time():
    """Docker sends it in parts, each with its time."""
    assert printed(frame("a" * 16384), frame("b" * 16384), frame("c\n"), frame("d\n")) == [
        "a" * 16384 + "b" * 16384 + "c",
        "d",
    ]


def test_parts_of_both_streams_do_not_mix():
    found = printed(frame("a" * 16384), frame("b" * 16384, stream=2), frame("c\n"), frame("d\n", stream=2))
    assert found == ["a" * 16384 + "c", "b" * 16384 + "d"]


def test_a_line_without_end_is_cut_and_each_piece_has_its_time():
    found = printed(*[frame("x" * 16384)] * 40)
    assert "".join(found) == "x" * 16384 * 40
    assert max(map(len, found)) <= 96 * 1024


def test_a_last_line_without_end_is_there():
    assert printed(frame("one\n"), frame("the rest")) == ["one", "the rest"]


def test_bytes_may_arrive_in_any_pieces():
    data = frame("a" * 16384) + frame("é\n") + frame("two\n")
    lines = LogLines()
    found = [line for byte in data for line in lines.feed(bytes([byte]))]
    assert found == [TIME + "a" * 16384 + "é", TIME + "two"]
