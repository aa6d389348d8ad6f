"""`model.onnx`: the network with its weights in one file, for ONNX Runtime and everything else that reads ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_core.exports.pt2_file import program_of
from lit_core.exports.verify import Details, Inputs, Run

OPSET = 20
"""From 2023: the first opset with Gelu; ONNX Runtime reads it since 1.17."""
OUTPUT = "logits"
FUSED_DIMENSIONS = 4
"""Dimensions of queries: batch, heads, positions, channels."""


def write_onnx(network: nn.Module, inputs: Inputs, path: Path, details: Details) -> None:
    """`inputs` are examples with two samples or more; the file takes any number. Its inputs are named by `input_names`,
    and its `metadata_props` are the metadata.

    `network` is on the CPU and in eval mode. Raises what `program_of` raises, what torch.onnx raises for a program that
    it does not support, and for more than 2 GB, the limit of an ONNX file.
    """
    # Not from the network: as a last resort torch.onnx would write a file for a single batch size.
    program = torch.onnx.export(
        _with_plain_attention(program_of(network, inputs)),
        (),
        dynamo=True,
        opset_version=OPSET,
        input_names=input_names(inputs),
        output_names=[OUTPUT],
        dynamic_shapes=tuple({0: "batch"} for _ in inputs),
        verbose=False,
    )
    assert program is not None  # noqa: S101 - only without dynamo=True
    program.model.metadata_props.update(details.metadata)
    program.save(path, external_data=False)


def _with_plain_attention(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """torch.onnx supports fused attention only with four dimensions, but windows and nested blocks have five. Those
    are replaced by matrix products."""
    fused = torch.ops.aten.scaled_dot_product_attention.default
    nodes = [node for node in program.graph.nodes if node.target == fused]
    if all(node.args[0].meta["val"].ndim == FUSED_DIMENSIONS for node in nodes):
        return program
    plain: torch.export.ExportedProgram = program.run_decompositions({fused: _attention})
    return plain


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - no dropout in eval mode
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch.nn.functional.scaled_dot_product_attention, each (…, positions, channels)."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1) @ value


def input_names(inputs: Inputs) -> list[str]:
    """`input` for a single input; `input_1`, `input_2` and so on for several."""
    return ["input"] if len(inputs) == 1 else [f"input_{place}" for place in range(1, len(inputs) + 1)]


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
