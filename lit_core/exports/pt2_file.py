"""`model.pt2`: the network as a program of torch.export, which torch runs without its Python code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lit_core.exports.traced import Traced
from lit_core.exports.verify import Details, Inputs, Run


def write_program(traced: Traced, path: Path, details: Details) -> None:
    """The file takes any number of samples. Each entry of the metadata is an extra file by its key.

    Raises what `Traced.program` raises.
    """
    torch.export.save(traced.program, path, extra_files=dict(details.metadata))


def program_runner(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> Tensor:
        output: Tensor = module(*inputs)
        return output

    return run
