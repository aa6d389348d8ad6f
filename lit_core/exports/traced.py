"""The network as the exporters see it: traced once, whatever the number of formats."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lit_core.exports.verify import Batches, Inputs

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20
"""From 2023: the first opset with Gelu; ONNX Runtime reads it since 1.17."""
OUTPUT = "logits"
FUSED_DIMENSIONS = 4
"""Dimensions of queries: batch, heads, positions, channels."""
EXAMPLE_BATCH = 2


class Traced:
    """What several formats are made of. Each part is made when the first format asks for it.

    `network` may be on any device and in any mode, and is not changed.
    """

    def __init__(self, network: nn.Module, batches: Batches) -> None:
        self._network, self._batches = network, batches

    @cached_property
    def network(self) -> nn.Module:
        """A copy on the CPU and in eval mode, because some exporters change what they are given."""
        return copy_for_inference(self._network)

    @cached_property
    def inputs(self) -> Inputs:
        """Two samples, because exporters take a batch size of one for a constant."""
        inputs, _ = next(iter(self._batches()))
        return tuple(x.detach().cpu()[torch.arange(EXAMPLE_BATCH) % len(x)].contiguous() for x in inputs)

    @cached_property
    def program(self) -> ExportedProgram:
        """Takes any number of samples. Raises what torch.export raises for a network that it does not support."""
        # A named dimension, because Dim.AUTO silently fixes the batch size where a network depends on it.
        batch = torch.export.Dim("batch", min=1)
        with torch.no_grad():
            return torch.export.export(self.network, self.inputs, dynamic_shapes=tuple({0: batch} for _ in self.inputs))

    @cached_property
    def onnx(self) -> ONNXProgram:
        """Takes any number of samples. Its inputs are named by `input_names`.

        Raises what `program` raises, and what torch.onnx raises for a program that it does not support.
        """
        # Not from the network: as a last resort torch.onnx would write a file for a single batch size.
        made = torch.onnx.export(
            _with_plain_attention(self.program),
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names(self.inputs),
            output_names=[OUTPUT],
            dynamic_shapes=tuple({0: "batch"} for _ in self.inputs),
            verbose=False,
        )
        assert made is not None  # noqa: S101 - only without dynamo=True
        return made


def copy_for_inference(network: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode and without gradients."""
    return copy.deepcopy(network).cpu().eval().requires_grad_(False)


def input_names(inputs: Inputs) -> list[str]:
    """`input` for a single input; `input_1`, `input_2` and so on for several."""
    return ["input"] if len(inputs) == 1 else [f"input_{place}" for place in range(1, len(inputs) + 1)]


def _with_plain_attention(program: ExportedProgram) -> ExportedProgram:
    """torch.onnx supports fused attention only with four dimensions, but windows and nested blocks have five. Those
    are replaced by matrix products."""
    fused = torch.ops.aten.scaled_dot_product_attention.default
    nodes = [node for node in program.graph.nodes if node.target == fused]
    if all(node.args[0].meta["val"].ndim == FUSED_DIMENSIONS for node in nodes):
        return program
    plain: ExportedProgram = program.run_decompositions({fused: _attention})
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
