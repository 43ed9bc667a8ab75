"""A detection model in ONNX format that finds squares by their colour, and a scene of such squares.

It has the inputs and outputs of RT-DETR's own exports, so the plugin runs it as it runs a real one. The score is the
visible share of a square, as a real detector's score sinks when an object is half hidden.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import onnx
import onnxruntime as ort

INPUT = 96  # pixels of a side
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))
BACKGROUND = (90, 90, 90)

GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
squares (float[{batch},3,{side},{side}] images, int64[{batch},2] orig_target_sizes)
    => (int64[{batch},{colours}] labels, float[{batch},{colours},4] boxes, float[{batch},{colours}] scores)
    <float[1,{colours},3,1,1] colour, float near = {{0.3}}, float half = {{0.5}}, float side = {{{side}.0}},
     float zero = {{0.0}}, float one = {{1.0}}, float nominal = {{{nominal}}}, float[{side}] index, float[{side}] after,
     int64[1] axis1 = {{1}}, int64[1] axis2 = {{2}}, int64[1] axis3 = {{3}}, int64[2] plane = {{2, 3}}>
{{
    spread = Unsqueeze (images, axis1)
    difference = Sub (spread, colour)
    distance = Abs (difference)
    worst = ReduceMax <keepdims = 0> (distance, axis2)
    close = Less (worst, near)
    mask = Cast <to = 1> (close)
    columns = ReduceMax <keepdims = 0> (mask, axis2)
    rows = ReduceMax <keepdims = 0> (mask, axis3)
    in_column = Greater (columns, half)
    in_row = Greater (rows, half)
    lefts = Where (in_column, index, side)
    rights = Where (in_column, after, zero)
    tops = Where (in_row, index, side)
    bottoms = Where (in_row, after, zero)
    x1 = ReduceMin <keepdims = 1> (lefts, axis2)
    x2 = ReduceMax <keepdims = 1> (rights, axis2)
    y1 = ReduceMin <keepdims = 1> (tops, axis2)
    y2 = ReduceMax <keepdims = 1> (bottoms, axis2)
    corners = Concat <axis = 2> (x1, y1, x2, y2)
    sizes = Cast <to = 1> (orig_target_sizes)
    twice = Concat <axis = 1> (sizes, sizes)
    ratio = Div (twice, side)
    per_box = Unsqueeze (ratio, axis1)
    boxes = Mul (corners, per_box)
    area = ReduceSum <keepdims = 0> (mask, plane)
    part = Div (area, nominal)
    scores = Min (part, one)
    nothing = Sub (scores, scores)
    labels = Cast <to = 7> (nothing)
}}
"""


class Square(NamedTuple):
    """A square of one colour. Its centre is at `positions[frame]`; None where it is not in the frame."""

    colour: tuple[int, int, int]
    positions: list[tuple[float, float] | None]


def write_model(path: Path, *, side: float, batch: str | int = "N") -> Path:
    """`side`: that of a whole square, as a fraction of the frame's height and width (which are equal)."""
    text = GRAPH.format(batch=batch, side=INPUT, colours=len(COLOURS), nominal=f"{(side * INPUT) ** 2:.1f}")
    model = onnx.parser.parse_model(text)
    values = {
        "colour": np.array(COLOURS, np.float32).reshape(1, -1, 3, 1, 1) / 255,
        "index": np.arange(INPUT, dtype=np.float32),
        "after": np.arange(1, INPUT + 1, dtype=np.float32),
    }
    others = [value for value in model.graph.initializer if value.name not in values]
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        [*others, *(onnx.numpy_helper.from_array(value, name) for name, value in values.items())]
    )
    model.metadata_props.add(key="labels", value=json.dumps(["square"]))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def on_cpu(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def draw(squares: list[Square], frame: int, size: int, side: int) -> np.ndarray:
    """Later squares cover earlier ones."""
    picture = np.full((size, size, 3), BACKGROUND, np.uint8)
    for square in squares:
        position = square.positions[frame]
        if position is not None:
            x, y = (round(value - side / 2) for value in position)
            picture[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)] = square.colour
    return picture


def film(path: Path, frames: list[np.ndarray], *, rate: int = 25, times: list[float] | None = None) -> Path:
    """A camera-like file: H.264, colours at half the resolution. `times` in seconds, for a varying rate."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 12800)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = Fraction(1, 12800)
            frame.pts = round((times[number] if times else number / rate) * 12800)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
