"""`model.onnx`: the network with its weights in one file, for ONNX Runtime and all that reads ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_core.exports.program_file import program_of
from lit_core.exports.verify import Inputs, Run

OPSET = 20
"""Of 2023: the first with Gelu, and read by ONNX Runtime since 1.17."""
OUTPUT = "logits"


def write_onnx(network: nn.Module, inputs: Inputs, path: Path) -> None:
    """`inputs` are examples of two samples or more; the file takes any number. They are named as `input_names` says.

    `network` is on the CPU and in eval mode. Raises what `program_of` does, whatever torch.onnx does for a program that
    it can't take, and for more than the 2 GB that one ONNX file holds.
    """
    # The program and not the network: from that, torch.onnx would make a file for one batch size where all else fails.
    torch.onnx.export(
        program_of(network, inputs),
        (),
        path,
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=input_names(inputs),
        output_names=[OUTPUT],
        dynamic_shapes=tuple({0: "batch"} for _ in inputs),
        verbose=False,
    )


def input_names(inputs: Inputs) -> list[str]:
    """`input` of one, `input_1`, `input_2` and so on of several."""
    return ["input"] if len(inputs) == 1 else [f"input_{place}" for place in range(1, len(inputs) + 1)]


def feed(inputs: Inputs) -> dict[str, Any]:
    """What ONNX Runtime is given."""
    return dict(zip(input_names(inputs), (x.detach().cpu().numpy() for x in inputs), strict=True))


def onnx_runner(path: Path) -> Run:
    """On the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        return torch.from_numpy(np.asarray(session.run([OUTPUT], feed(inputs))[0]))

    return run
