"""Detections in one frame, and the protocol of a detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""Height x width x 3 bytes: red, green, blue."""
Array = NDArray[Any]

MIN_SCORE = 0.1
"""Detections below it are noise. Scores above it keep an object's track alive while it is half hidden."""


class Box(TypedDict):
    """In pixels; `x`, `y` is the upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections in one frame, best first. `corners`: x1, y1, x2, y2 in pixels; `scores` 0 to 1; `classes` numbers."""

    corners: Array
    scores: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, selected: Array) -> Self:
        """The detections selected by a mask or by indices."""
        return type(self)(self.corners[selected], self.scores[selected], self.classes[selected])


class Detector(Protocol):
    """Detects objects. `labels` holds a name for each class number."""

    labels: Sequence[str]

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The detections in each frame with scores of at least MIN_SCORE."""
        ...


def label_of(labels: Sequence[str], class_id: int) -> str:
    """The class's name, or its number if it has none."""
    return labels[class_id] if 0 <= class_id < len(labels) else f"class {class_id}"


def box_of(corners: Array) -> Box:
    """The box with corners x1, y1, x2, y2, rounded to a tenth of a pixel."""
    x1, y1, x2, y2 = (float(value) for value in corners)
    return {"x": round(x1, 1), "y": round(y1, 1), "width": round(x2 - x1, 1), "height": round(y2 - y1, 1)}
