"""Runs a detection model in ONNX format, in batches, on any session."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it has no types

from video_tracker.detection import Array, Detections, Frame
from video_tracker.layouts import Size, layout_of

BATCH: Final = 8
"""Frames per batch for a model with a free batch size. Larger batches gain little on a GPU and cost memory."""
DEFAULT_SIDE: Final = 640
"""Pixels per side for a model that takes pictures of any size."""
LABELS_KEY: Final = "labels"
"""Key in the model's metadata: a JSON list with a name for each class."""
FLOATS: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxDetector:
    """A `Detector` on a session. Raises `RuntimeError` for an unsupported model."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        inputs = {value.name: value for value in session.get_inputs()}
        self._image = _image_input(inputs)
        self._sizes = next((name for name in inputs if name != self._image.name), None)
        batch, _, height, width = self._image.shape
        self.batch = batch if isinstance(batch, int) else BATCH
        self._size = Size(_pixels(width), _pixels(height))
        self._layout = layout_of({value.name: value.shape for value in session.get_outputs()}, self._size)
        self.labels: Sequence[str] = _labels(session.get_modelmeta().custom_metadata_map)

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detect objects; see `Detector`."""
        starts = range(0, len(frames), self.batch)
        return [found for start in starts for found in self._detect_batch(frames[start : start + self.batch])]

    def _detect_batch(self, frames: Sequence[Frame]) -> list[Detections]:
        sizes = [Size(frame.shape[1], frame.shape[0]) for frame in frames]
        images = np.stack([self._layout.prepare(frame, self._size) for frame in frames])
        feed: dict[str, Array] = {self._image.name: self._filled(images.astype(FLOATS[self._image.type]))}
        if self._sizes is not None:
            feed[self._sizes] = self._filled(np.array(sizes, np.int64))
        names = [value.name for value in self._session.get_outputs()]
        outputs = dict(zip(names, self._session.run(names, feed), strict=True))
        return [self._layout.read(outputs, index, size, self._size) for index, size in enumerate(sizes)]

    def _filled(self, rows: Array) -> Array:
        """Fill a batch with copies of the last row."""
        # ONNX Runtime would plan again for each new batch size.
        missing = self.batch - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def _image_input(inputs: Mapping[str, Any]) -> Any:
    for value in inputs.values():
        if len(value.shape) == 4 and value.shape[1] == 3 and value.type in FLOATS:
            if len(inputs) <= 2:
                return value
            break
    found = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs.values())
    raise RuntimeError(
        f"the model's inputs are {found}; expected pictures as floats [batch, 3, height, width] and, where the model"
        " wants them, the frames' sizes [batch, 2]"
    )


def _pixels(side: int | str | None) -> int:
    return side if isinstance(side, int) else DEFAULT_SIDE


def _labels(metadata: Mapping[str, str]) -> list[str]:
    text = metadata.get(LABELS_KEY, "[]")
    try:
        labels = json.loads(text)
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RuntimeError(f"the model's metadata {LABELS_KEY!r} is {text[:80]!r}; expected a JSON list of names")
    return labels
