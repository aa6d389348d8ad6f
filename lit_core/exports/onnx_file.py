"""`model.onnx`: the network with its weights in one file, for ONNX Runtime and everything else that reads ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_core.exports.traced import OUTPUT, Traced, input_names
from lit_core.exports.verify import Details, Inputs, Run


def write_onnx(traced: Traced, path: Path, details: Details) -> None:
    """The file takes any number of samples, and its `metadata_props` are the metadata.

    Raises what `Traced.onnx` raises, and for more than 2 GB, the limit of an ONNX file.
    """
    program = traced.onnx
    properties = program.model.metadata_props
    properties.update(details.metadata)
    try:
        program.save(path, external_data=False)
    finally:
        # Other formats are made of the same program.
        for key in details.metadata:
            del properties[key]


def feed(inputs: Inputs) -> dict[str, Any]:
    """The arguments for ONNX Runtime."""
    return dict(zip(input_names(inputs), (x.detach().cpu().numpy() for x in inputs), strict=True))


def onnx_runner(path: Path) -> Run:
    """Runs the file on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        return torch.from_numpy(np.asarray(session.run([OUTPUT], feed(inputs))[0]))

    return run
