"""How far a caller may be behind with its body."""

import pytest

from orchestrator.api.body import UploadPace

PACES: list[tuple[str, list[tuple[float, int]], float]] = [
    ("nothing yet", [], 0),
    ("as fast as it must", [(1, 1000)] * 50, 0),
    ("twice as fast", [(1, 2000)] * 50, 0),
    ("half as fast", [(1, 500)] * 50, 25),
    ("a byte now and then", [(29, 1)] * 2, 57.998),
    ("a pause, then made up for", [(20, 0), (1, 50_000)], 0),
    ("a pause, partly made up for", [(20, 0), (0, 5000)], 15),
    ("haste does not buy a pause", [(1, 10**9), (20, 0)], 20),
]  # fmt: skip


@pytest.mark.parametrize(("chunks", "seconds"), [row[1:] for row in PACES], ids=[row[0] for row in PACES])
def test_how_far_an_upload_is_behind(chunks: list[tuple[float, int]], seconds: float) -> None:
    """At 1000 bytes a second."""
    pace, behind = UploadPace(idle=30, min_rate=1000, grace=30), 0.0
    for waited, size in chunks:
        behind = pace.behind(behind, waited=waited, size=size)
    assert behind == pytest.approx(seconds)
