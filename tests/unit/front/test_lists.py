"""Cursors, merged lists, merged metrics, server-sent events."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.front.cursors import Cursor, CursorError
from orchestrator.front.merged_lists import events_after, newest_events, newest_runs
from orchestrator.front.metrics_text import merged_metrics
from orchestrator.front.sse_events import SentEvent, SseEvents

HOSTS = ["a", "b"]


def test_over_one_host_a_cursor_is_its_own_number() -> None:
    """So callers of a single orchestrator need not change."""
    assert Cursor.parse("120", ["a"]).positions == {"a": 120}
    assert Cursor({"a": 120}).text(["a"]) == "120"
    assert Cursor().text(["a"]) == ""


@given(st.dictionaries(st.sampled_from(["a", "gpu-1", "gpu-2"]), st.integers(0, 10**17), min_size=1))
def test_a_cursor_survives_being_written(positions: dict[str, int]) -> None:
    hosts = ["a", "gpu-1", "gpu-2"]
    assert Cursor.parse(Cursor(positions).text(hosts), hosts).positions == positions


def test_a_host_that_is_gone_is_left_out_of_a_cursor() -> None:
    assert Cursor.parse("a:1,gone:7", HOSTS).positions == {"a": 1}


@pytest.mark.parametrize("text", ["", "120", "a", "a:", "a:-1", "a:1;b:2", "a:1,", "a:" + "9" * 19, "A:1", "a:1 "])
def test_what_is_no_cursor(text: str) -> None:
    """The bare number of one host says nothing of two."""
    with pytest.raises(CursorError, match="expected a position such as a:120,b:120"):
        Cursor.parse(text, HOSTS)


def entry(number: int, second: int, time: str = "time") -> dict[str, Any]:
    return {"id": number, time: f"2026-11-28T10:{second // 60:02}:{second % 60:02}+00:00"}


def read_all(histories: dict[str, list[dict[str, Any]]], limit: int) -> list[tuple[str, int]]:
    """Page by page, as a reader does: each page from the cursor of the last entry before it."""
    cursor, found = Cursor(dict.fromkeys(histories, 0)), list[tuple[str, int]]()
    while True:
        pages = {
            host: [event for event in events if event["id"] > cursor.positions[host]][:limit]
            for host, events in histories.items()
        }
        page = events_after(pages, cursor, sorted(histories), limit)
        if not page:
            return found
        found += [(event["host"], event["id"]) for event in page]
        cursor = Cursor({**cursor.positions, **Cursor.parse(page[-1]["cursor"], sorted(histories)).positions})


@given(
    st.lists(st.integers(0, 1000), max_size=20),
    st.lists(st.integers(0, 1000), max_size=20),
    st.integers(1, 7),
)
def test_page_by_page_nothing_is_missing_and_nothing_comes_twice(a: list[int], b: list[int], limit: int) -> None:
    """Whatever the clocks of the hosts say: each host's events come in its own order."""
    histories = {
        host: [entry(number, second) for number, second in enumerate(seconds, 1)]
        for host, seconds in (("a", a), ("b", b))
    }
    found = read_all(histories, limit)
    for host, events in histories.items():
        assert [number for name, number in found if name == host] == [event["id"] for event in events]


@given(st.lists(st.integers(0, 100), max_size=12), st.lists(st.integers(0, 100), max_size=12), st.integers(1, 8))
def test_after_the_newest_page_come_the_next_events(a: list[int], b: list[int], limit: int) -> None:
    """The cursor of its last entry stands behind all that there was."""
    pages = {
        host: [entry(number, second) for number, second in enumerate(sorted(seconds), 1)][-limit:]
        for host, seconds in (("a", a), ("b", b))
    }
    page = newest_events(pages, HOSTS, limit)
    assert len(page) == min(limit, len(pages["a"]) + len(pages["b"]))
    if page:
        positions = Cursor.parse(page[-1]["cursor"], HOSTS).positions
        assert positions == {host: each[-1]["id"] if each else 0 for host, each in pages.items()}


def test_runs_come_newest_first_with_where_to_go_on() -> None:
    pages = {
        "a": [entry(0, 9, "accepted_at"), entry(4, 5, "accepted_at"), entry(2, 1, "accepted_at")],
        "b": [entry(7, 6, "accepted_at")],
    }
    runs = newest_runs(pages, Cursor(), HOSTS, 3)
    assert [(run["host"], run["id"]) for run in runs] == [("a", 0), ("b", 7), ("a", 4)]
    assert [run["cursor"] for run in runs] == ["", "b:7", "a:4,b:7"]


def test_over_one_host_entries_have_no_cursor() -> None:
    assert "cursor" not in events_after({"a": [entry(1, 0)]}, Cursor(), ["a"], 10)[0]


METRICS = """# HELP plugin_runs_total Runs.
# TYPE plugin_runs_total counter
plugin_runs_total{plugin="reader"} 3.0
# HELP up Whether.
# TYPE up gauge
up 1.0
# HELP plugin_seconds Time.
# TYPE plugin_seconds histogram
plugin_seconds_bucket{plugin="x}y",le="+Inf"} 2.0
plugin_seconds_count{plugin="x}y"} 2.0
"""


def test_series_get_their_host_and_families_stay_together() -> None:
    """Else Prometheus refuses the whole text."""
    text = merged_metrics({"a": METRICS, "b": METRICS})
    lines = text.splitlines()
    assert 'plugin_runs_total{host="a",plugin="reader"} 3.0' in lines
    assert 'up{host="b"} 1.0' in lines
    assert 'plugin_seconds_bucket{host="b",plugin="x}y",le="+Inf"} 2.0' in lines
    assert text.count("# TYPE plugin_seconds histogram") == 1
    families = [re.sub(r"_(bucket|count)$", "", line.split("{")[0]) for line in lines if not line.startswith("#")]
    assert families == sorted(families, key=families.index)  # no family comes twice
    assert len(lines) == 6 + 2 * 4


@given(st.integers(1, 40))
def test_events_in_pieces(size: int) -> None:
    """However the network cuts them."""
    stream = (
        b'retry: 2000\n\nevent: lifecycle\nid: 7\ndata: {"a": "x: y"}\n\n: still here\n\nevent: health\ndata: {}\n\n'
    )
    events = SseEvents()
    found = [event for at in range(0, len(stream), size) for event in events.feed(stream[at : at + size])]
    assert found == [SentEvent("lifecycle", "7", b'{"a": "x: y"}'), SentEvent("health", "", b"{}")]
