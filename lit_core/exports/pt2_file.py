"""`model.pt2`: the network as a program of torch.export, which torch runs without its Python code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lit_core.exports.verify import Details, Inputs, Run


def program_of(network: nn.Module, inputs: Inputs) -> ExportedProgram:
    """`inputs` are examples with two samples or more; the program takes any number.

    `network` is on the CPU and in eval mode. Raises what torch.export raises for a network that it does not support.
    """
    # A named dimension, because Dim.AUTO silently fixes the batch size where a network depends on it.
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(network, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


def write_program(network: nn.Module, inputs: Inputs, path: Path, details: Details) -> None:
    """Has the arguments and exceptions of `program_of`. Each entry of the metadata is an extra file by its key."""
    torch.export.save(program_of(network, inputs), path, extra_files=dict(details.metadata))


def program_runner(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> Tensor:
        output: Tensor = module(*inputs)
        return output

    return run
