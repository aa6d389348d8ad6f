"""ResNets for small images: depth 6n+2, three sections of n basic blocks (He et al., CVPR 2016, section 4.2).

Any width, input channels and classes. Shortcut A (identity, padded with zero channels, subsampled) or
B (1x1 convolution with BatchNorm); the head may be called `fc` or `linear`, the projection `downsample` or `shortcut`.
The built network keeps the teacher's own names, so that a student's tensors fit into the teacher's own code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.families.shapes import Shapes, Unrecognised, count_blocks, numbered, shortened
from lit_core.networks.layout import Layout
from lit_spec import Architecture

SECTIONS = ("layer1", "layer2", "layer3")
HEADS = ("fc", "linear")
PROJECTIONS = ("downsample", "shortcut")
USUAL_SIZE = (32, 32)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (B, in_width, H, W) -> (B, width, H/stride, W/stride)."""

    def __init__(self, in_width: int, width: int, stride: int, projection: str | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.padding = width - in_width
        self.projection = projection if stride != 1 or in_width != width else None
        if self.projection:
            convolution = nn.Conv2d(in_width, width, 1, stride, bias=False)
            self.add_module(self.projection, nn.Sequential(convolution, nn.BatchNorm2d(width)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x), inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.projection:
            projected: Tensor = self.get_submodule(self.projection)(x)
            return projected
        if self.stride == 1 and self.padding == 0:
            return x
        before = self.padding // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.padding - before))


class ResNet(nn.Module):
    """(B, channels, H, W) -> logits (B, classes)."""

    def __init__(
        self, blocks: list[int], width: int, channels: int, classes: int, shortcut: str, head: str, projection: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        in_width = width
        for index, (section, count) in enumerate(zip(SECTIONS, blocks, strict=True)):
            out_width = width * 2**index
            layers = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                layers.append(BasicBlock(in_width, out_width, stride, projection if shortcut == "B" else None))
                in_width = out_width
            self.add_module(section, nn.Sequential(*layers))
        self.head = head
        self.add_module(head, nn.Linear(in_width, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for section in SECTIONS:
            out = self.get_submodule(section)(out)
        logits: Tensor = self.get_submodule(self.head)(torch.mean(out, dim=(2, 3)))
        return logits


class ResNetCifar:
    name = "resnet_cifar"

    def read(self, shapes: Shapes) -> Architecture:
        head = next((name for name in HEADS if f"{name}.weight" in shapes), None)
        stem = shapes.get("conv1.weight", ())
        blocks = [count_blocks(shapes, section) for section in SECTIONS]
        if head is None or len(stem) != 4 or 0 in blocks or len(shapes[f"{head}.weight"]) != 2:
            wanted = "conv1.weight, layer1…layer3 with blocks numbered from 0, and fc or linear"
            raise Unrecognised(f"is no CIFAR ResNet (expected {wanted})")
        projection = next((name for name in PROJECTIONS if f"layer2.0.{name}.0.weight" in shapes), None)
        return Architecture(
            family=self.name,
            depth=_depth(blocks),
            blocks=blocks,
            channels=stem[1],
            classes=shapes[f"{head}.weight"][0],
            options={
                "width": stem[0],
                "shortcut": "B" if projection else "A",
                "head": head,
                "projection": projection or PROJECTIONS[0],
            },
        )

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        return ResNet(
            blocks=architecture.blocks,
            width=int(options["width"]),
            channels=int(architecture.channels or 0),
            classes=architecture.classes,
            shortcut=str(options["shortcut"]),
            head=str(options["head"]),
            projection=str(options["projection"]),
        )

    def layout(self, architecture: Architecture) -> Layout:
        sections = tuple(numbered(*section) for section in zip(SECTIONS, architecture.blocks, strict=True))
        return Layout(stem=("conv1", "bn1"), sections=sections, head=(str(architecture.options["head"]),))

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:
        return [(_depth(blocks), blocks) for blocks in shortened(architecture.blocks)]

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        return (torch.zeros(1, int(architecture.channels or 0), *USUAL_SIZE),)


def _depth(blocks: list[int]) -> int:
    """Number of weighted layers: convolutions of the blocks and of the stem, and the head."""
    return 2 * sum(blocks) + 2
