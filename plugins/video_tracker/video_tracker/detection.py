"""What is seen in one frame, and who sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""Height x width x 3 bytes: red, green, blue."""
Array = NDArray[Any]

LOWEST_SCORE = 0.1
"""Detections below it are noise. Those from here up keep an object's track alive while it is half hidden."""


class Box(TypedDict):
    """In pixels; `x`, `y` is the upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Detections:
    """Of one frame, best first. `corners` are x1, y1, x2, y2 in its pixels, `scores` from 0 to 1, `classes` numbers."""

    corners: Array
    scores: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, kept: Array) -> Self:
        """Those of a mask or of a list of indices."""
        return type(self)(self.corners[kept], self.scores[kept], self.classes[kept])


class Detector(Protocol):
    """Finds objects. `labels` has a name for each class number that it can give."""

    labels: Sequence[str]

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Of each frame what is in it, with scores from LOWEST_SCORE up."""
        ...


def label_of(labels: Sequence[str], class_id: int) -> str:
    """A class without a name is called by its number."""
    return labels[class_id] if 0 <= class_id < len(labels) else f"class {class_id}"


def box_of(corners: Array) -> Box:
    """From the two corners x1, y1, x2, y2, to a tenth of a pixel."""
    x1, y1, x2, y2 = (float(value) for value in corners)
    return {"x": round(x1, 1), "y": round(y1, 1), "width": round(x2 - x1, 1), "height": round(y2 - y1, 1)}
