"""VDCNNs: texts as characters, four sections of blocks of two convolutions (Conneau et al., EACL 2017).

Tensor names are those of LIT's released code. Any vocabulary, widths, k and hidden sizes, with and without shortcuts
and biases. A block that widens halves the length; the tensors do not tell how.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.families.shapes import BEGINS, Shapes, Unrecognised, count_blocks, extents, numbered, shortened
from lit_core.networks.layout import Layout
from lit_spec import Architecture, Modality

SECTIONS = tuple(f"sections.section_{section}" for section in range(4))
PREFIX = "block_"
NAMED = ([1, 1, 1, 1], [2, 2, 2, 2], [5, 5, 2, 2], [8, 8, 5, 3])
"""The blocks of the paper's depths: 9, 17, 29 and 49."""
USUAL_LENGTH = 1014


class Downsampling(StrEnum):
    """How a block that widens halves the length of its input."""

    MAXPOOL = "maxpool"
    CONV = "conv"
    KMAXPOOL = "kmaxpool"


class KMaxPool(nn.Module):
    """The k largest values of each channel, in their original order. (B, C, L) -> (B, C, k)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return largest(x, self.k)


class HalfMaxPool(nn.Module):
    """The larger half of each channel's values, in their original order. (B, C, L) -> (B, C, L//2)."""

    def forward(self, x: Tensor) -> Tensor:
        return largest(x, x.shape[2] // 2)


def largest(x: Tensor, count: int) -> Tensor:
    """The `count` largest values of each channel of (B, C, L), in their original order."""
    # Which of equal values topk chooses is undefined, and equal zeros are common after ReLU. The paper's code uses topk
    # as well, so a teacher computes the same as there.
    places = x.topk(count, dim=2).indices
    return x.gather(2, places.sort(dim=2).values)


class Block(nn.Module):
    """Two convolutions over three characters, with or without a shortcut.

    (B, in_width, L) -> (B, width, L), the length halved where the block widens.
    """

    def __init__(self, in_width: int, width: int, downsampling: Downsampling, shortcut: bool, bias: bool) -> None:
        super().__init__()
        widens = width > in_width
        stride = 2 if widens and downsampling == Downsampling.CONV else 1
        self.pool = _pool(downsampling) if widens else nn.Identity()
        self.conv1 = nn.Conv1d(in_width, width, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm1d(width)
        self._shortcut: nn.Sequential | None = None
        if shortcut:
            self._shortcut = nn.Sequential()
            if widens:
                self._shortcut.append(nn.Conv1d(in_width, width, 1, stride, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self._shortcut is not None:
            out = out + self._shortcut(x)
        return F.relu(out, inplace=True)


def _pool(downsampling: Downsampling) -> nn.Module:
    if downsampling == Downsampling.MAXPOOL:
        return nn.MaxPool1d(3, 2, 1)
    return HalfMaxPool() if downsampling == Downsampling.KMAXPOOL else nn.Identity()


class VDCNN(nn.Module):
    """Vocabulary indices (B, L) -> logits (B, classes). L, halved by each block that widens, must stay at least k."""

    def __init__(
        self,
        blocks: list[int],
        classes: int,
        *,
        widths: tuple[int, ...] = (64, 64, 128, 256, 512),
        vocabulary_size: int = 69,
        embedding_size: int = 16,
        k: int = 8,
        hidden: tuple[int, int] = (2048, 2048),
        downsampling: Downsampling = Downsampling.MAXPOOL,
        shortcut: bool = False,
        bias: bool = False,
    ) -> None:
        """`widths` of the stem and of the four sections."""
        super().__init__()
        self.character_embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.conv1 = nn.Conv1d(embedding_size, widths[0], 3, 1, 1, bias=bias)
        sections: OrderedDict[str, nn.Module] = OrderedDict()
        for section, (count, (before, width)) in enumerate(zip(blocks, pairwise(widths), strict=True)):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(count):
                in_width = before if block == 0 else width
                layers[f"{PREFIX}{block}"] = Block(in_width, width, downsampling, shortcut, bias)
            sections[f"section_{section}"] = nn.Sequential(layers)
        self.sections = nn.Sequential(sections)
        self.kmax = KMaxPool(k)
        self.fc1 = nn.Linear(widths[-1] * k, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.character_embedding(x).transpose(1, 2))
        out = self.kmax(self.sections(out)).flatten(1)
        out = F.relu(self.fc2(F.relu(self.fc1(out))))
        logits: Tensor = self.fc3(out)
        return logits


class Vdcnn:
    name = "vdcnn"

    def read(self, shapes: Shapes) -> Architecture:
        blocks = [count_blocks(shapes, section, PREFIX) for section in SECTIONS]
        if "character_embedding.weight" not in shapes or 0 in blocks:
            raise Unrecognised(
                "is no VDCNN (expected character_embedding.weight, conv1.weight, sections.section_0…section_3 with "
                "blocks block_0, …, and fc1, fc2, fc3)"
            )
        vocabulary_size, embedding_size = extents(shapes, "character_embedding.weight", 2)
        widths = [extents(shapes, "conv1.weight", 3)[0]]
        widths += [extents(shapes, f"{section}.{PREFIX}0.conv1.weight", 3)[0] for section in SECTIONS]
        hidden_1, flattened = extents(shapes, "fc1.weight", 2)
        classes, hidden_2 = extents(shapes, "fc3.weight", 2)
        if flattened % widths[-1]:
            raise Unrecognised(
                f"has fc1.weight with {flattened} inputs, no multiple of the last section's width {widths[-1]}",
                BEGINS,
            )
        shortcut = any(f"{section}.{PREFIX}0._shortcut.0.weight" in shapes for section in SECTIONS)
        if shortcut and any(width < before for before, width in pairwise(widths)):
            raise Unrecognised(f"has shortcuts, but widths that fall: {widths}", BEGINS)
        k, halvings = flattened // widths[-1], sum(width > before for before, width in pairwise(widths))
        return Architecture(
            family=self.name,
            modality=Modality.TEXT,
            depth=_depth(blocks),
            blocks=blocks,
            channels=None,
            classes=classes,
            options={
                "vocabulary_size": vocabulary_size,
                "embedding_size": embedding_size,
                "stem_width": widths[0],
                **{f"width_{section}": width for section, width in enumerate(widths[1:], start=1)},
                "k": k,
                "hidden_1": hidden_1,
                "hidden_2": hidden_2,
                "downsampling": Downsampling.MAXPOOL.value,
                "shortcut": shortcut,
                "bias": "conv1.bias" in shapes,
                "least_length": k * 2**halvings,
            },
            # Without widening there is no halving, and shortcuts have no tensors.
            choices={"downsampling": [way.value for way in Downsampling]} if halvings else {"shortcut": [False, True]},
        )

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        return VDCNN(
            blocks=architecture.blocks,
            classes=architecture.classes,
            widths=(int(options["stem_width"]), *(int(options[f"width_{section}"]) for section in (1, 2, 3, 4))),
            vocabulary_size=int(options["vocabulary_size"]),
            embedding_size=int(options["embedding_size"]),
            k=int(options["k"]),
            hidden=(int(options["hidden_1"]), int(options["hidden_2"])),
            downsampling=Downsampling(str(options["downsampling"])),
            shortcut=bool(options["shortcut"]),
            bias=bool(options["bias"]),
        )

    def layout(self, architecture: Architecture) -> Layout:
        sections = tuple(numbered(*section, PREFIX) for section in zip(SECTIONS, architecture.blocks, strict=True))
        return Layout(stem=("character_embedding", "conv1"), sections=sections, head=("fc1", "fc2", "fc3"))

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:
        """n blocks in each section, but never more than the teacher has there; and the paper's depths that fit."""
        own = architecture.blocks
        named = [blocks for blocks in NAMED if all(n <= count for n, count in zip(blocks, own, strict=True))]
        by_depth = {_depth(blocks): blocks for blocks in [*shortened(own), *named]}
        return sorted(by_depth.items())

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        length = max(USUAL_LENGTH, int(architecture.options["least_length"]))
        return (torch.zeros(1, length, dtype=torch.int64),)


def _depth(blocks: list[int]) -> int:
    """Number of convolutions in blocks and stem; the paper does not count fully connected layers."""
    return 2 * sum(blocks) + 1
