"""`orchestrator plugins` is readable in 80 and in 120 columns, and no reason is cut."""

from __future__ import annotations

import pytest

REASON = (
    "The process was killed by the kernel because it used more memory than limits.memory allows (512 MiB); give it "
    "more in plugin.yaml and run `orchestrator restart table-extractor`."
)
ABOUT = "Finds the tables of a scanned page and returns each of them as rows of cells, with the position of every cell"


@pytest.fixture
def lines(api, request):
    healthy = {"state": "INITIALIZED", "reason": None, "reason_code": None}
    api.says(
        "/v1/plugins",
        [
            api.plugin(name="ocr", uptime_seconds=75, success_count=12345, last_execution_time_ms=31.4, **healthy),
            api.plugin(name="table-extractor", reason_code="OUT_OF_MEMORY", reason=REASON, description=ABOUT),
            api.plugin(name="motion", description=ABOUT, **healthy),
        ],
    )
    return api.call("plugins", columns=request.param).stdout.splitlines()


@pytest.mark.parametrize("lines", [50, 80, 120], indirect=True)
def test_the_reason_stands_whole_below_its_plugin_and_words_stay_whole(lines):
    first = next(at for at, line in enumerate(lines) if line.startswith("table-extractor"))
    last = next(at for at, line in enumerate(lines) if line.startswith("motion"))
    below = lines[first + 1 : last]
    assert all(line.startswith("    ") for line in below)
    assert " ".join(line.strip() for line in below) == f"OUT_OF_MEMORY: {REASON}"


@pytest.mark.parametrize("lines", [80, 120], indirect=True)
def test_one_line_a_plugin_with_its_description_cut_at_the_edge(lines, request):
    rows = [line for line in lines if not line.startswith(" ")]
    assert [row.split()[0] for row in rows] == ["PLUGIN", "ocr", "table-extractor", "motion"]
    assert rows[1].split()[1:7] == ["0.1.0", "INITIALIZED", "1m15s", "12345", "0", "31"]
    assert rows[1].endswith(("says it again", "says it a…"))
    assert rows[2].endswith("…") and rows[3].endswith("…")
    starts = {rows[0].index("ABOUT"), rows[1].index("says"), rows[2].index("Finds"), rows[3].index("Finds")}
    assert len(starts) == 1


@pytest.mark.parametrize("lines", [80], indirect=True)
def test_nothing_is_wider_than_the_terminal(lines):
    assert max(map(len, lines)) <= 80
