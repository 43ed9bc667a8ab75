"""Runs a detection model in TorchScript, where torch is installed.

A TorchScript file has neither names nor shapes: a tuple of outputs is read in the order of the families' own exports, a
dictionary by its names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]  # instead of onnxruntime, where it is installed

from video_tracker.batches import BATCH, DEFAULT_SIDE, LABELS_KEY, BatchDetector, read_labels
from video_tracker.detection import Array
from video_tracker.layouts import Size, layout_of

SIZE_KEY: Final = "size"
"""File in the archive: JSON [height, width] in pixels."""
NAMES: Final[Mapping[int, Sequence[str]]] = {
    1: ("output",),
    2: ("logits", "pred_boxes"),
    3: ("labels", "boxes", "scores"),
}
"""Number of outputs in a tuple → their names."""


def open_on_cuda(model: Path) -> "TorchDetector":
    """The model, loaded on the GPU. Raises what is wrong."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"finds no GPU that works (it is for CUDA {built})" if built else "was built without CUDA"
        raise RuntimeError(f"CUDA initialization: torch {torch.__version__} {why}")
    return TorchDetector(model, "cuda")


class TorchDetector(BatchDetector):
    """A `Detector` on a device. Raises `RuntimeError` for an unsupported model."""

    def __init__(self, model: Path, device: str) -> None:
        extra: dict[str, Any] = {LABELS_KEY: "", SIZE_KEY: ""}
        try:
            self._module = torch.jit.load(str(model), map_location=device, _extra_files=extra).eval()
        except RuntimeError as error:
            if "constants.pkl" not in str(error):
                raise
            raise RuntimeError(
                f"{model.name} has weights alone, and is no model in TorchScript: export it by torch.jit.trace or"
                " torch.jit.script, and save that"
            ) from None
        texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in extra.items()}
        size = _size(texts[SIZE_KEY])
        self._device = device
        floats = (value.dtype for value in self._module.parameters() if value.is_floating_point())
        self._floats = next(floats, torch.float32)
        parameters = len(self._module.forward.schema.arguments) - 1  # the first is the module itself
        if parameters not in (1, 2):
            raise RuntimeError(
                f"the model takes {parameters} inputs; expected pictures as floats [batch, 3, height, width] and, where"
                " the model wants them, the frames' sizes [batch, 2]"
            )
        self._wants_sizes = parameters == 2
        blank = np.zeros((BATCH, 3, size.height, size.width), np.float32)
        outputs = self._run(blank, np.array([size] * BATCH, np.int64))
        layout = layout_of({name: value.shape for name, value in outputs.items()}, size)
        super().__init__(layout, size, read_labels(texts[LABELS_KEY]))

    def _run(self, images: Array, sizes: Array) -> Mapping[str, Array]:
        feed = [torch.from_numpy(images).to(self._device, self._floats)]
        if self._wants_sizes:
            feed.append(torch.from_numpy(sizes).to(self._device))
        with torch.inference_mode():
            outputs = self._module(*feed)
        return {name: _array(value) for name, value in _named(outputs).items()}


def _named(outputs: Any) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return outputs
    values = outputs if isinstance(outputs, tuple | list) else (outputs,)
    names = NAMES.get(len(values))
    if names is None or not all(isinstance(value, torch.Tensor) for value in values):
        raise RuntimeError(
            f"the model returns {len(values)} outputs without names; expected one (YOLOX), logits and boxes, or labels,"
            " boxes and scores, or a dictionary with these names"
        )
    return dict(zip(names, values, strict=True))


def _array(value: Any) -> Array:
    # NumPy has no bfloat16.
    found: Array = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return found


def _size(text: str) -> Size:
    try:
        height, width = json.loads(text) if text else (DEFAULT_SIDE, DEFAULT_SIDE)
        return Size(int(width), int(height))
    except (ValueError, TypeError) as error:
        raise RuntimeError(f"the file {SIZE_KEY!r} in the model is {text[:80]!r}; expected [height, width]") from error
