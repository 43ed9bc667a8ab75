"""Runs a detection model in ONNX format, on any session."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # it has no types

from video_tracker.batches import BATCH, DEFAULT_SIDE, LABELS_KEY, BatchDetector, read_labels
from video_tracker.detection import Array
from video_tracker.layouts import Size, layout_of

FLOATS: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxDetector(BatchDetector):
    """A `Detector` on a session. Raises `RuntimeError` for an unsupported model."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        inputs = {value.name: value for value in session.get_inputs()}
        self._image = _image_input(inputs)
        self._sizes = next((name for name in inputs if name != self._image.name), None)
        batch, _, height, width = self._image.shape
        size = Size(_pixels(width), _pixels(height))
        super().__init__(
            layout_of({value.name: value.shape for value in session.get_outputs()}, size),
            size,
            read_labels(session.get_modelmeta().custom_metadata_map.get(LABELS_KEY, "")),
            batch=batch if isinstance(batch, int) else BATCH,
        )

    def _run(self, images: Array, sizes: Array) -> Mapping[str, Array]:
        feed: dict[str, Array] = {self._image.name: images.astype(FLOATS[self._image.type])}
        if self._sizes is not None:
            feed[self._sizes] = sizes
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feed), strict=True))


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
