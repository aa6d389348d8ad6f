"""What is trained: a teacher, its student, and one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.discovery import find_layout
from lit_core.networks.families import family_of
from lit_core.networks.families.library import create, describe
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_spec import Architecture, Library, LibraryRequest, Optimizer
from lit_spec.networks.students import evenly, shares

TOKENS, VOCABULARY, CLASSES = 128, 30522, 10


@dataclass(frozen=True)
class Networks:
    teacher: SectionedNetwork
    student: SectionedNetwork
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Workload:
    name: str
    build: Callable[[], SectionedNetwork]
    blocks: int
    """Of the student."""
    optimizer: Optimizer
    batch: int
    shape: tuple[int, ...]
    """Of one sample; a text of token ids if it has one axis."""
    classes: int = CLASSES

    def networks(self, device: torch.device) -> Networks:
        """The same for every caller."""
        torch.manual_seed(0)
        teacher = self.build()
        if len(self.shape) == 1:
            inputs = torch.randint(0, VOCABULARY, (self.batch, *self.shape))
        else:
            inputs = torch.randn(self.batch, *self.shape)
        _measure_statistics(teacher.network, inputs)
        teacher.freeze()
        whole = [len(section) for section in teacher.sections]
        wanted = shares(whole, self.blocks)
        kept = [evenly(count, wanted[n]) for n, count in enumerate(whole)]
        student = shortened(teacher, kept)
        labels = torch.randint(0, self.classes, (self.batch,))
        for network in (teacher, student):
            network.network.to(device)
        return Networks(teacher, student, inputs.to(device), labels.to(device))


@torch.no_grad()
def _measure_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Give BatchNorm the statistics of its own inputs, as in a trained network.

    With those of a new one, representations grow from block to block, until the loss of the last section hides all
    others in the gradients that are compared.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(inputs)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def workloads(device: torch.device) -> list[Workload]:
    """With larger batches on a GPU."""
    images, many = (3, 224, 224), device.type == "cuda"
    found = [
        *(
            Workload("resnet110-20", _resnet(110), 9, Optimizer.SGD, batch, (3, 32, 32))
            for batch in (32, 128, *([1024] if many else []))
        ),
        Workload("resnet50-third", _library("resnet50"), 5, Optimizer.SGD, 64 if many else 8, images, 1000),
        Workload(
            "vit_small-12-6",
            _library("vit_small_patch16_224"),
            6,
            Optimizer.ADAM,
            64 if many else 8,
            images,
            1000,
        ),
    ]
    if find_spec("transformers") is not None:
        found.append(Workload("bert-12-6", _bert, 6, Optimizer.ADAM, 64 if many else 16, (TOKENS,)))
    return found


def short_workloads() -> list[Workload]:
    """Small ones of the same kinds."""
    return [Workload("resnet20-8", _resnet(20), 3, Optimizer.SGD, 8, (3, 16, 16))]


def _resnet(depth: int) -> Callable[[], SectionedNetwork]:
    def build() -> SectionedNetwork:
        blocks = (depth - 2) // 6
        options: dict[str, int | str | bool] = {
            "width": 16,
            "shortcut": "A",
            "head": "fc",
            "projection": "downsample",
        }
        architecture = Architecture(
            family="resnet_cifar", depth=depth, blocks=[blocks] * 3, channels=3, classes=CLASSES, options=options
        )
        family = family_of(architecture)
        return SectionedNetwork(family.build(architecture), family.layout(architecture))

    return build


def _library(name: str) -> Callable[[], SectionedNetwork]:
    def build() -> SectionedNetwork:
        request = LibraryRequest(library=Library.TIMM, name=name)
        architecture = describe(request, create(Library.TIMM, name, {}))
        family = family_of(architecture)
        return SectionedNetwork(family.build(architecture), family.layout(architecture))

    return build


class _Encoder(nn.Module):
    """A BERT that classifies by its first token, of MiniLM's width."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12}
        self.bert = BertModel(BertConfig(**sizes, intermediate_size=1536, vocab_size=VOCABULARY))
        self.head = nn.Linear(384, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.bert(input_ids=ids).last_hidden_state[:, 0])
        return logits


def _bert() -> SectionedNetwork:
    network = _Encoder()
    layout = find_layout(network, (torch.zeros(2, TOKENS, dtype=torch.long),), ["bert.encoder.layer"])
    return SectionedNetwork(network, layout)
