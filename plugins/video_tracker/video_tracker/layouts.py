"""Input and output layout of each family of detection models. Pure.

The names and shapes of a model's outputs identify its family; see `layout_of`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import supervision as sv

from video_tracker.detection import MIN_SCORE, Array, Detections, Frame

MAX_OVERLAP = 0.45
"""If two boxes of one class overlap more (intersection over union), the weaker is dropped."""
PADDING = 114  # the grey that YOLOX was trained with
STRIDES = (8, 16, 32)  # of YOLOX's three grids
MAX_CANDIDATES = 1000
"""Number of best boxes per frame that are considered."""


class Size(NamedTuple):
    """In pixels."""

    width: int
    height: int


class Layout(Protocol):
    """The layout of one model family."""

    def prepare(self, frame: Frame, size: Size) -> Array:
        """The model's input for one frame: 3 x height x width, 32-bit floats."""
        ...

    def read(self, outputs: Mapping[str, Array], index: int, frame: Size, size: Size) -> Detections:
        """The detections in output `index` of a batch, for a frame of the size `frame`."""
        ...


class EndToEnd:
    """RT-DETR, D-FINE and DEIM by their own export scripts: `labels`, `boxes` and `scores`.

    They take the size of each frame as an input and give boxes in its pixels.
    """

    def prepare(self, frame: Frame, size: Size) -> Array:
        return _stretched(frame, size)

    def read(self, outputs: Mapping[str, Array], index: int, frame: Size, size: Size) -> Detections:  # noqa: ARG002
        return _detections(outputs["boxes"][index], outputs["scores"][index], outputs["labels"][index], frame)


class Queries:
    """RT-DETR and D-FINE of Hugging Face's transformers: `logits`, and `pred_boxes` as centre and size, 0 to 1."""

    def prepare(self, frame: Frame, size: Size) -> Array:
        return _stretched(frame, size)

    def read(self, outputs: Mapping[str, Array], index: int, frame: Size, size: Size) -> Detections:  # noqa: ARG002
        logits = outputs["logits"][index].astype(np.float32)
        scores = 1 / (1 + np.exp(-logits.clip(-50, 50)))
        best = scores.argmax(axis=1)
        centre_x, centre_y, width, height = outputs["pred_boxes"][index].astype(np.float32).T
        boxes = np.stack(
            [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2], axis=1
        )
        boxes *= np.array([frame.width, frame.height] * 2, np.float32)
        return _detections(boxes, scores[np.arange(len(best)), best], best, frame)


class Yolox:
    """YOLOX: one output with, for each cell of three grids, a box, an object score and a score per class.

    The input is BGR from 0 to 255 with the frame in the upper left corner. Overlapping boxes are dropped here.
    """

    def prepare(self, frame: Frame, size: Size) -> Array:
        ratio = _ratio(Size(frame.shape[1], frame.shape[0]), size)
        width, height = int(frame.shape[1] * ratio), int(frame.shape[0] * ratio)
        padded = np.full((size.height, size.width, 3), PADDING, np.uint8)
        padded[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)[:, :, ::-1]
        return padded.transpose(2, 0, 1).astype(np.float32)

    def read(self, outputs: Mapping[str, Array], index: int, frame: Size, size: Size) -> Detections:
        (output,) = outputs.values()
        cells = output[index].astype(np.float32)
        corners, strides = _grid(size)
        centres = (cells[:, :2] + corners) * strides
        sizes = np.exp(cells[:, 2:4].clip(max=20)) * strides
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) / _ratio(frame, size)
        scores = cells[:, 4:5] * cells[:, 5:]
        best = scores.argmax(axis=1)
        found = _detections(boxes, scores[np.arange(len(best)), best], best, frame)
        rows = np.column_stack([found.corners, found.scores, found.classes])
        return found.only(sv.box_non_max_suppression(rows, MAX_OVERLAP))


def layout_of(outputs: Mapping[str, Sequence[int | str | None]], size: Size) -> Layout:
    """The layout by names and shapes of the outputs. Raises `RuntimeError` if no family matches."""
    if {"labels", "boxes", "scores"} <= outputs.keys():
        return EndToEnd()
    if {"logits", "pred_boxes"} <= outputs.keys():
        return Queries()
    shapes = list(outputs.values())
    if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] == len(_grid(size)[0]):
        return Yolox()
    found = ", ".join(f"{name} {list(shape)}" for name, shape in outputs.items())
    raise RuntimeError(
        f"the model's outputs are of no known layout: {found}; known are labels/boxes/scores (RT-DETR, D-FINE, DEIM),"
        " logits/pred_boxes (RT-DETR and D-FINE of transformers) and YOLOX's single output"
    )


def _stretched(frame: Frame, size: Size) -> Array:
    small = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    return small.transpose(2, 0, 1).astype(np.float32) / 255


def _ratio(frame: Size, size: Size) -> float:
    return min(size.width / frame.width, size.height / frame.height)


def _grid(size: Size) -> tuple[Array, Array]:
    """For each cell its position in its grid, and the grid's stride in pixels."""
    corners, strides = [], []
    for stride in STRIDES:
        x, y = np.meshgrid(np.arange(size.width // stride), np.arange(size.height // stride))
        corners.append(np.stack([x, y], axis=2).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _detections(boxes: Array, scores: Array, classes: Array, frame: Size) -> Detections:
    """Valid detections above the noise, clipped to the frame, best first."""
    boxes = boxes.astype(np.float32).clip(0, [frame.width, frame.height] * 2)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # also False for NaN
    (selected,) = np.nonzero(has_area & (scores >= MIN_SCORE))
    selected = selected[np.argsort(-scores[selected], kind="stable")][:MAX_CANDIDATES]
    return Detections(boxes[selected], scores[selected].astype(np.float32), classes[selected].astype(np.int64))
