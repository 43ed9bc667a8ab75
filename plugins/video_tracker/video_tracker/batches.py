"""Detects in batches, whatever runs the model."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from video_tracker.detection import Array, Detections, Frame
from video_tracker.layouts import Layout, Size

BATCH: Final = 8
"""Frames per batch for a model with a free batch size. Larger batches gain little on a GPU and cost memory."""
DEFAULT_SIDE: Final = 640
"""Pixels per side for a model that takes pictures of any size."""
LABELS_KEY: Final = "labels"
"""Key in the model's metadata: a JSON list with a name for each class."""


class BatchDetector(ABC):
    """A `Detector` whose model takes batches of one size."""

    def __init__(self, layout: Layout, size: Size, labels: Sequence[str], *, batch: int = BATCH) -> None:
        self.labels = labels
        self.batch = batch
        self._layout = layout
        self._size = size

    @abstractmethod
    def _run(self, images: Array, sizes: Array) -> Mapping[str, Array]:
        """The model's outputs by name. `images`: batch x 3 x height x width, 32-bit floats; `sizes`: of each frame,
        width and height.
        """

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detect objects; see `Detector`."""
        starts = range(0, len(frames), self.batch)
        return [found for start in starts for found in self._detect_batch(frames[start : start + self.batch])]

    def _detect_batch(self, frames: Sequence[Frame]) -> list[Detections]:
        sizes = [Size(frame.shape[1], frame.shape[0]) for frame in frames]
        images = np.stack([self._layout.prepare(frame, self._size) for frame in frames])
        outputs = self._run(self._filled(images), self._filled(np.array(sizes, np.int64)))
        return [self._layout.read(outputs, index, size, self._size) for index, size in enumerate(sizes)]

    def _filled(self, rows: Array) -> Array:
        """Fill a batch with copies of the last row."""
        # Both runtimes would plan again for each new batch size.
        missing = self.batch - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def read_labels(text: str) -> list[str]:
    """The class names in a model's metadata; empty without any. Raises `RuntimeError`."""
    labels: Any = []
    try:
        labels = json.loads(text or "[]")
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RuntimeError(f"the model's metadata {LABELS_KEY!r} is {text[:80]!r}; expected a JSON list of names")
    return labels
