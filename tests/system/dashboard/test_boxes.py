"""The rectangles that the page finds in a tool's result. The scripts run in a real browser."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page
from support.harness import Harness

pytestmark = pytest.mark.slow

BOX = {"x": 10, "y": 20, "width": 30, "height": 40}


@pytest.fixture
async def boxes_in(harness: Harness, look: Callable[..., Awaitable[Page]]) -> Callable[[Any], Awaitable[Any]]:
    await harness.open()
    page = await look()

    async def boxes_in(result: Any) -> Any:
        script = "async (result) => (await import('/assets/boxes.js')).boxesIn(result)"
        return await page.evaluate(script, result)

    return boxes_in


@pytest.mark.parametrize(
    ("result", "label"),
    [
        ({"width": 600, "height": 400, "words": [{"text": "One", **BOX, "confidence": 91.4}]}, "One 91.4"),
        ({"regions": [{**BOX, "area": 900, "centroid": {"x": 12.5, "y": 30}}]}, ""),
        ({"frame": 3, "time_seconds": 0.1, "tracks": [{"id": 7, "label": "cup", "score": 0.9, **BOX}]}, "cup #7 0.9"),
        ([{"class": "cat", "box": [10, 20, 40, 60]}], "cat"),
        ([{"class": "cat", "bbox": [10, 20, 30, 40]}], "cat"),
        ([{"class": "cat", "bbox": BOX}], "cat"),
        ({"xyxy": [10, 20, 40, 60]}, ""),
        ({"box": {"x1": 10, "y1": 20, "x2": 40, "y2": 60}}, ""),
        ({"left": 10, "top": 20, "right": 40, "bottom": 60, "name": "door"}, "door"),
    ],
    ids=["ocr", "motion-detector", "video-tracker", "corners", "coco", "object", "xyxy", "named-corners", "sides"],
)
async def test_shapes_that_are_understood(boxes_in: Any, result: Any, label: str) -> None:
    assert await boxes_in(result) == [{**BOX, "label": label}]


@pytest.mark.parametrize(
    "result",
    [None, 3, "text", [1, 2, 3, 4], {"width": 3, "height": 4}, {"box": [1, 2, 3]}, {"box": ["a", 2, 3, 4]}, {"x": 1}],
    ids=str,
)
async def test_shapes_that_are_no_rectangle(boxes_in: Any, result: Any) -> None:
    assert await boxes_in(result) == []
