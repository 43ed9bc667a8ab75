"""How each family of detection models wants its input, and what its output means. Pure.

A model says its family by the names and shapes of its outputs; see `layout_of`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import supervision as sv

from video_tracker.detection import LOWEST_SCORE, Array, Detections, Frame

OVERLAP = 0.45
"""Of two boxes of one class that overlap more (intersection over union), the weaker is dropped."""
PADDING = 114  # the grey that YOLOX was trained with
STRIDES = (8, 16, 32)  # of YOLOX's three grids
MAX_CANDIDATES = 1000
"""Boxes of a frame that are looked at, best first."""


class Size(NamedTuple):
    """In pixels."""

    width: int
    height: int


class Layout(Protocol):
    """One family of models."""

    def prepare(self, frame: Frame, size: Size) -> Array:
        """The model's input for one frame: 3 x height x width, 32-bit floats."""
        ...

    def read(self, outputs: Mapping[str, Array], index: int, frame: Size, size: Size) -> Detections:
        """What output number `index` of a batch says of a frame of the size `frame`."""
        ...


class EndToEnd:
    """RT-DETR, D-FINE and DEIM as their own export scripts make them: `labels`, `boxes` and `scores`, nothing left to
    do. They are told the size of each frame and give boxes in its pixels.
    """

    def prepare(self, frame: Frame, size: Size) -> Array:
        return _stretched(frame, size)

    def read(self, outputs: Mapping[str, Array], index: int, frame: Size, size: Size) -> Detections:  # noqa: ARG002
        return _detections(outputs["boxes"][index], outputs["scores"][index], outputs["labels"][index], frame)


class Queries:
    """RT-DETR and D-FINE as Hugging Face's transformers have them: `logits`, and `pred_boxes` by centre and size in
    parts of the frame.
    """

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
    """YOLOX: one output, per cell of three grids a box, the score that there is something, and a score per class.

    The input is blue, green, red from 0 to 255, the frame in the upper left corner. Overlapping boxes are dropped here.
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
        return found.only(sv.box_non_max_suppression(rows, OVERLAP))


def layout_of(outputs: Mapping[str, Sequence[int | str | None]], size: Size) -> Layout:
    """By the names of the outputs and their shapes. Raises `RuntimeError` where no family fits."""
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
    """Of each cell its place in its grid, and the pixels between two cells of that grid."""
    corners, strides = [], []
    for stride in STRIDES:
        x, y = np.meshgrid(np.arange(size.width // stride), np.arange(size.height // stride))
        corners.append(np.stack([x, y], axis=2).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _detections(boxes: Array, scores: Array, classes: Array, frame: Size) -> Detections:
    """Without noise, without what is no box, nothing outside the frame; best first."""
    boxes = boxes.astype(np.float32).clip(0, [frame.width, frame.height] * 2)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # false for what is no number, too
    (kept,) = np.nonzero(has_area & (scores >= LOWEST_SCORE))
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MAX_CANDIDATES]
    return Detections(boxes[kept], scores[kept].astype(np.float32), classes[kept].astype(np.int64))
