"""The student as a Hugging Face folder: in timm's format where timm can build the network, else in our own."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.exports.hugging_face import FOLDER, timm_config, timm_cropping, write_hugging_face
from lit_core.model import ModelConfig
from lit_core.networks.families.library import create
from lit_core.networks.state_dicts import load_state
from lit_spec import Export, Library
from lit_spec.trainer.folder import BUNDLE_FILE, WEIGHTS_FILE
from lit_spec.trainer.report import ExportReport, Report

LARGEST_DIFFERENCE = 1e-5

log = logging.getLogger("trainer")


def export_folder(
    folder: Path, report: Report, config: ModelConfig, student: nn.Module, sample: tuple[Tensor, ...]
) -> ExportReport:
    """Write `huggingface/` into `folder`, which has the weights; the entry for the report's exports.

    `reads` says who can load it: `timm`, or `lit-compress` where timm has no arguments for such a network.
    """
    entry = ExportReport(kind=Export.HUGGING_FACE, file=BUNDLE_FILE, reads=None, error=None)
    try:
        written = _timm_config(config, student, sample)
        write_hugging_face(folder, report=report, config=config, weights=folder / WEIGHTS_FILE, timm_config=written)
        entry.reads = "lit-compress" if written is None else "timm"
    except Exception as failure:
        log.warning("export %s failed", Export.HUGGING_FACE, exc_info=True)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        entry.error = f"{type(failure).__name__}: {failure}"[:500]
    return entry


def _timm_config(config: ModelConfig, student: nn.Module, sample: tuple[Tensor, ...]) -> dict[str, Any] | None:
    """None if timm can't build the student from arguments, or can't preprocess images as the student's."""
    network, preprocessing = config.architecture.network, config.preprocessing
    if config.architecture.family != Library.TIMM or network is None or preprocessing.kind != "image":
        return None
    try:
        timm_cropping(preprocessing)
    except ValueError:
        return None
    blocks = config.architecture.blocks
    # The names that timm's networks have for the number of their blocks.
    for depths in ({"depth": sum(blocks)}, {"num_blocks": sum(blocks)}, {"depths": blocks}, {"layers": blocks}):
        arguments = {**network.kwargs, **depths}
        if _is_same(network.name, arguments, student, sample):
            return timm_config(network.name, arguments, student, preprocessing)
    return None


@torch.no_grad()
def _is_same(name: str, arguments: dict[str, Any], student: nn.Module, sample: tuple[Tensor, ...]) -> bool:
    try:
        network = create(Library.TIMM, name, arguments).eval()
        load_state(network, {key: tensor.cpu() for key, tensor in student.state_dict().items()})
    except Exception:  # noqa: BLE001 - timm raises anything for arguments that it does not know
        return False
    # Not zeros: those would hide differences in the handling of positions.
    drawn = tuple(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for x in sample)
    device = next(student.parameters()).device
    wanted = student.eval()(*(x.to(device) for x in drawn)).cpu()
    return bool((network(*drawn) - wanted).abs().max() <= LARGEST_DIFFERENCE * max(1.0, float(wanted.abs().max())))
