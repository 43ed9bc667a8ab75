# ruff: noqa: INP001 - a program, in a folder that is no package
"""Writes detector.onnx beside this file: RT-DETRv2 (code and weights under the Apache License 2.0), with labels.

Needs torch, transformers, onnx and onnxscript, and the weights from Hugging Face or a folder; no GPU.

    python export_rtdetr.py [PekingU/rtdetr_v2_r18vd | folder]
"""

import json
import sys
from pathlib import Path

import onnx
import torch
from transformers import AutoModelForObjectDetection, PreTrainedModel

SIDE = 640  # pixels, the size in training
TARGET = Path(__file__).parent / "detector.onnx"


class DetectorOutputs(torch.nn.Module):
    """The model with the two outputs that the plugin reads."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(pixel_values=images)
        return found.logits, found.pred_boxes


def export(model: PreTrainedModel, target: Path) -> None:
    """Write the model to one file, with its labels in the metadata."""
    torch.onnx.export(
        DetectorOutputs(model.eval()),
        (torch.zeros(2, 3, SIDE, SIDE),),
        str(target),
        input_names=["images"],
        output_names=["logits", "pred_boxes"],
        dynamic_axes={name: {0: "batch"} for name in ("images", "logits", "pred_boxes")},
        opset_version=17,
        dynamo=False,
    )
    exported = onnx.load(target)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    exported.metadata_props.add(key="labels", value=json.dumps(names))
    onnx.save(exported, target)


if __name__ == "__main__":
    weights = sys.argv[1] if len(sys.argv) > 1 else "PekingU/rtdetr_v2_r18vd"
    export(AutoModelForObjectDetection.from_pretrained(weights), TARGET)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.0f} MB")  # noqa: T201
