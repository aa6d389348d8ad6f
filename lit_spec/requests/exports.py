"""Formats that a job can write in addition to `model.safetensors` and `config.json`."""

from __future__ import annotations

from enum import StrEnum


class Export(StrEnum):
    ONNX = "onnx"
    """`model.onnx`, any batch size."""
    PT2 = "pt2"
    """`model.pt2`, written by torch.export, any batch size."""
    INT8 = "int8"
    """`model.int8.onnx`: weights and activations quantised to eight bits, calibrated on training samples."""
    OPENVINO = "openvino"
    """`model.openvino.zip` with `model.xml` and `model.bin`, any batch size. Workers need the extra `openvino`."""
    HUGGING_FACE = "hugging_face"
    """`huggingface/`: a folder for the Hugging Face hub, with a model card."""


DEFAULT_EXPORTS = (Export.ONNX, Export.PT2)
