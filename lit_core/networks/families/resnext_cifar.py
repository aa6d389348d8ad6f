"""ResNeXts for small images: depth 9n+2, three sections of n bottleneck blocks (Xie et al., CVPR 2017, section 5.2).

Any cardinality, base width, input channels and classes, any width of the stem and of the first section; widths double
from section to section. Tensors may be named as those of a CIFAR ResNet (`layer`) or as in the widespread CIFAR ResNeXt
code (`stage`). The built network keeps the teacher's own names, so that a student's tensors fit into the teacher's own
code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.families.shapes import BEGINS, Shapes, Unrecognised, count_blocks, extents, numbered, shortened
from lit_core.networks.layout import Layout
from lit_spec import Architecture

HEADS = ("fc", "linear", "classifier")
PROJECTIONS = ("downsample", "shortcut")
USUAL_SIZE = (32, 32)


@dataclass(frozen=True)
class Names:
    """The names that one implementation has for the parts of the network."""

    stem: tuple[str, str]
    """Convolution and BatchNorm."""
    sections: tuple[str, str, str]
    prefix: str
    """Prefix of a block's name, before its number; `{section}` is replaced by the section's name."""
    convolutions: tuple[str, str, str]
    norms: tuple[str, str, str]
    projection: tuple[str, str]
    """Convolution and BatchNorm inside the projection."""

    def blocks(self, section: int, count: int) -> tuple[str, ...]:
        """Module paths of the section's blocks."""
        return numbered(self.sections[section], count, self.block_prefix(section))

    def block_prefix(self, section: int) -> str:
        return self.prefix.format(section=self.sections[section])


NAMES: Mapping[str, Names] = {
    "layer": Names(
        stem=("conv1", "bn1"),
        sections=("layer1", "layer2", "layer3"),
        prefix="",
        convolutions=("conv1", "conv2", "conv3"),
        norms=("bn1", "bn2", "bn3"),
        projection=("0", "1"),
    ),
    "stage": Names(
        stem=("conv_1_3x3", "bn_1"),
        sections=("stage_1", "stage_2", "stage_3"),
        prefix="{section}_bottleneck_",
        convolutions=("conv_reduce", "conv_conv", "conv_expand"),
        norms=("bn_reduce", "bn", "bn_expand"),
        projection=("shortcut_conv", "shortcut_bn"),
    ),
}


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution, and a shortcut. (B, in_width, H, W) -> (B, width, H/stride, W/stride)."""

    def __init__(
        self, in_width: int, inner: int, width: int, stride: int, cardinality: int, names: Names, projection: str
    ) -> None:
        super().__init__()
        reduce, middle, expand = names.convolutions
        self.add_module(reduce, nn.Conv2d(in_width, inner, 1, bias=False))
        self.add_module(middle, nn.Conv2d(inner, inner, 3, stride, 1, groups=cardinality, bias=False))
        self.add_module(expand, nn.Conv2d(inner, width, 1, bias=False))
        for name, features in zip(names.norms, (inner, inner, width), strict=True):
            self.add_module(name, nn.BatchNorm2d(features))
        self.layers = tuple(zip(names.convolutions, names.norms, strict=True))
        self.projection = projection if stride != 1 or in_width != width else None
        if self.projection:
            convolution, norm = names.projection
            projected = nn.Sequential()
            projected.add_module(convolution, nn.Conv2d(in_width, width, 1, stride, bias=False))
            projected.add_module(norm, nn.BatchNorm2d(width))
            self.add_module(self.projection, projected)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        out = F.relu(self._normalised(first, x), inplace=True)
        out = F.relu(self._normalised(second, out), inplace=True)
        out = self._normalised(third, out)
        shortcut: Tensor = self.get_submodule(self.projection)(x) if self.projection else x
        return F.relu(out + shortcut, inplace=True)

    def _normalised(self, layer: tuple[str, str], x: Tensor) -> Tensor:
        convolution, norm = layer
        normalised: Tensor = self.get_submodule(norm)(self.get_submodule(convolution)(x))
        return normalised


class ResNeXt(nn.Module):
    """(B, channels, H, W) -> logits (B, classes)."""

    def __init__(
        self,
        blocks: list[int],
        cardinality: int,
        base_width: int,
        width: int,
        stem_width: int,
        channels: int,
        classes: int,
        names: Names = NAMES["layer"],
        head: str = HEADS[0],
        projection: str = PROJECTIONS[0],
    ) -> None:
        """`width` is the number of output channels of the first section, in which each of the `cardinality` groups has
        `base_width` channels."""
        super().__init__()
        self.names, self.head = names, head
        convolution, norm = names.stem
        self.add_module(convolution, nn.Conv2d(channels, stem_width, 3, 1, 1, bias=False))
        self.add_module(norm, nn.BatchNorm2d(stem_width))
        in_width = stem_width
        for section, count in enumerate(blocks):
            inner, out_width = cardinality * base_width * 2**section, width * 2**section
            layers = nn.Sequential()
            for block in range(count):
                stride = 2 if section > 0 and block == 0 else 1
                bottleneck = Bottleneck(in_width, inner, out_width, stride, cardinality, names, projection)
                layers.add_module(f"{names.block_prefix(section)}{block}", bottleneck)
                in_width = out_width
            self.add_module(names.sections[section], layers)
        self.add_module(head, nn.Linear(in_width, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self.names.stem
        out = F.relu(self.get_submodule(norm)(self.get_submodule(convolution)(x)), inplace=True)
        for section in self.names.sections:
            out = self.get_submodule(section)(out)
        logits: Tensor = self.get_submodule(self.head)(torch.mean(out, dim=(2, 3)))
        return logits


class ResNeXtCifar:
    name = "resnext_cifar"

    def read(self, shapes: Shapes) -> Architecture:
        used = next((name for name, names in NAMES.items() if _expanding(names) in shapes), None)
        head = next((name for name in HEADS if f"{name}.weight" in shapes), None)
        if used is None or head is None:
            raise Unrecognised(
                "is no CIFAR ResNeXt (expected conv1.weight, layer1…layer3 with blocks of conv1, conv2, conv3 numbered "
                "from 0, and fc or linear; or conv_1_3x3.weight, stage_1…stage_3 and classifier)"
            )
        names = NAMES[used]
        blocks = [count_blocks(shapes, names.sections[place], names.block_prefix(place)) for place in range(3)]
        if 0 in blocks:
            expected = ", ".join(names.sections)
            raise Unrecognised(f"is no CIFAR ResNeXt (expected blocks in each of {expected})", BEGINS)
        stem_width, channels, *_ = extents(shapes, f"{names.stem[0]}.weight", 4)
        grouped = f"{names.blocks(0, 1)[0]}.{names.convolutions[1]}.weight"
        inner, base_width, *_ = extents(shapes, grouped, 4)
        if inner % base_width:
            raise Unrecognised(
                f"has {grouped} with groups of {base_width}, which don't divide its {inner} outputs", BEGINS
            )
        return Architecture(
            family=self.name,
            depth=_depth(blocks),
            blocks=blocks,
            channels=channels,
            classes=extents(shapes, f"{head}.weight", 2)[0],
            options={
                "cardinality": inner // base_width,
                "base_width": base_width,
                "width": extents(shapes, _expanding(names), 4)[0],
                "stem_width": stem_width,
                "names": used,
                "head": head,
                "projection": _projection(shapes, names),
            },
        )

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        return ResNeXt(
            blocks=architecture.blocks,
            cardinality=int(options["cardinality"]),
            base_width=int(options["base_width"]),
            width=int(options["width"]),
            stem_width=int(options["stem_width"]),
            channels=int(architecture.channels or 0),
            classes=architecture.classes,
            names=NAMES[str(options["names"])],
            head=str(options["head"]),
            projection=str(options["projection"]),
        )

    def layout(self, architecture: Architecture) -> Layout:
        names = NAMES[str(architecture.options["names"])]
        sections = tuple(names.blocks(section, count) for section, count in enumerate(architecture.blocks))
        return Layout(stem=names.stem, sections=sections, head=(str(architecture.options["head"]),))

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:
        return [(_depth(blocks), blocks) for blocks in shortened(architecture.blocks)]

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        return (torch.zeros(1, int(architecture.channels or 0), *USUAL_SIZE),)


def _expanding(names: Names) -> str:
    """A tensor that only blocks with a bottleneck have."""
    return f"{names.blocks(0, 1)[0]}.{names.convolutions[2]}.weight"


def _projection(shapes: Shapes, names: Names) -> str:
    """The name of the projection in the second section's first block, which always has one."""
    block = names.blocks(1, 1)[0]
    inside = names.projection[0]
    return next((name for name in PROJECTIONS if f"{block}.{name}.{inside}.weight" in shapes), PROJECTIONS[0])


def _depth(blocks: list[int]) -> int:
    """Number of weighted layers: convolutions of the blocks and of the stem, and the head."""
    return 3 * sum(blocks) + 2
