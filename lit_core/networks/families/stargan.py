"""StarGAN (Choi et al., CVPR 2018, tables 4 and 5): the generator, which jobs make shallower, and the discriminator.

Any `conv_dim`, domains, image channels and number of residual blocks. A generator's tensors may be named as in the
original code (one sequence `main`) or as in the paper's code of LIT (`downsampling_layers`, `bottleneck_section1`,
`upsampling_layers`); the student keeps the teacher's names. The one section is the trunk of residual blocks.
"""

from __future__ import annotations

import re
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.families.shapes import Shapes, Unrecognised, numbered
from lit_core.networks.layout import Layout
from lit_spec import Architecture, Task

FLAT, SECTIONS = "main", "sections"
TRUNKS = {FLAT: "main", SECTIONS: "bottleneck_section1"}
STEM_MODULES, HEAD_MODULES = 9, 8
OUTPUT = 6
"""Index of the last convolution in the head."""
SLOPE = 0.01
USUAL_SIZE = (128, 128)


class InstanceNorm(nn.InstanceNorm2d):
    """Standardises each image by its own statistics, also in eval mode, (B, C, H, W) -> (B, C, H, W).

    The original code tracks running statistics but never calls eval(), so it never uses them. Here they exist only
    because the original's state dict has them; they are neither used nor changed.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut, without activation after the sum. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, norm: partial[InstanceNorm]) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.main(x)
        return out


class Generator(nn.Module):
    """Images (B, channels, H, W) in -1..1 and target domains (B, domains) -> images (B, channels, H, W) in -1..1.

    H and W are multiples of 4, at least 8.
    """

    def __init__(
        self, conv_dim: int, domains: int, channels: int, blocks: int, names: str, running_statistics: bool
    ) -> None:
        super().__init__()
        norm = partial(InstanceNorm, affine=True, track_running_stats=running_statistics)
        stem: list[nn.Module] = []
        stem += [nn.Conv2d(channels + domains, conv_dim, 7, 1, 3, bias=False), norm(conv_dim), nn.ReLU(inplace=True)]
        for width in (2 * conv_dim, 4 * conv_dim):
            stem += [nn.Conv2d(width // 2, width, 4, 2, 1, bias=False), norm(width), nn.ReLU(inplace=True)]
        trunk = [ResidualBlock(4 * conv_dim, norm) for _ in range(blocks)]
        head: list[nn.Module] = []
        for width in (2 * conv_dim, conv_dim):
            head += [nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), norm(width), nn.ReLU(inplace=True)]
        head += [nn.Conv2d(conv_dim, channels, 7, 1, 3, bias=False), nn.Tanh()]
        if names == FLAT:
            self.main = nn.Sequential(*stem, *trunk, *head)
        else:
            self.downsampling_layers = nn.Sequential(*stem)
            self.bottleneck_section1 = nn.Sequential(*trunk)
            self.upsampling_layers = nn.Sequential(*head)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        planes = c[:, :, None, None].expand(-1, -1, x.shape[2], x.shape[3])
        out = torch.cat([x, planes], dim=1)
        for stage in self.children():
            out = stage(out)
        return out


class Discriminator(nn.Module):
    """PatchGAN: images (B, channels, S, S) -> how real each patch is (B, 1, k, k), and logits of domains (B, domains).

    S is k · 2^layers.
    """

    def __init__(self, conv_dim: int, domains: int, channels: int, layers: int, kernel: int) -> None:
        super().__init__()
        main: list[nn.Module] = []
        width = channels
        for layer in range(layers):
            main += [nn.Conv2d(width, conv_dim * 2**layer, 4, 2, 1), nn.LeakyReLU(SLOPE)]
            width = conv_dim * 2**layer
        self.main = nn.Sequential(*main)
        self.conv1 = nn.Conv2d(width, 1, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(width, domains, kernel, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.main(x)
        return self.conv1(h), self.conv2(h).flatten(1)


class StarGan:
    name = "stargan"

    def read(self, shapes: Shapes) -> Architecture:
        names = SECTIONS if "downsampling_layers.0.weight" in shapes else FLAT
        blocks = _count(shapes, rf"{TRUNKS[names]}\.(\d+)\.main\.0\.weight$")
        layout = _layout(names, blocks)
        first, last = (f"{path}.weight" for path in (layout.stem[0], layout.head[OUTPUT]))
        stem, output = shapes.get(first, ()), shapes.get(last, ())
        if len(stem) != 4 or stem[2:] != (7, 7):
            raise Unrecognised("is no StarGAN generator: expected a 7x7 convolution main.0 or downsampling_layers.0")
        channels = output[0] if len(output) == 4 else 0
        domains = stem[1] - channels
        if blocks < 1 or channels < 1 or domains < 1:
            raise Unrecognised(
                f"begins as a StarGAN generator, but has {blocks} residual blocks ({TRUNKS[names]}.N.main), {channels} "
                f"output channels ({last}) and {stem[1]} input channels, which are those of images and domains",
                count=len(shapes),
            )
        return Architecture(
            family=self.name,
            task=Task.TRANSLATION,
            depth=_depth(blocks),
            blocks=[blocks],
            channels=channels,
            classes=domains,
            options={
                "conv_dim": stem[0],
                "names": names,
                "running_statistics": f"{layout.stem[1]}.running_mean" in shapes,
            },
        )

    def build(self, architecture: Architecture) -> nn.Module:
        """Initialised with torch's defaults, as in the original code."""
        options = architecture.options
        return Generator(
            conv_dim=int(options["conv_dim"]),
            domains=architecture.classes,
            channels=int(architecture.channels or 0),
            blocks=architecture.blocks[0],
            names=str(options["names"]),
            running_statistics=bool(options["running_statistics"]),
        )

    def layout(self, architecture: Architecture) -> Layout:
        return _layout(str(architecture.options["names"]), architecture.blocks[0])

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:
        """1 … n residual blocks."""
        return [(_depth(blocks), [blocks]) for blocks in range(1, architecture.blocks[0] + 1)]

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        """An image of the paper's size, and its target domains."""
        return torch.zeros(1, int(architecture.channels or 0), *USUAL_SIZE), torch.zeros(1, architecture.classes)


class StarGanDiscriminator:
    name = "stargan_discriminator"

    def read(self, shapes: Shapes) -> Architecture:
        first, last = shapes.get("main.0.weight", ()), shapes.get("conv2.weight", ())
        if len(first) != 4 or first[2:] != (4, 4):
            raise Unrecognised("is no StarGAN discriminator: expected a 4x4 convolution main.0")
        if len(last) != 4:
            raise Unrecognised(
                "begins as a StarGAN discriminator, but lacks the convolution conv2 of its domains", count=len(shapes)
            )
        layers = _count(shapes, r"main\.(\d+)\.weight$")
        return Architecture(
            family=self.name,
            task=Task.DISCRIMINATION,
            depth=layers + 2,
            blocks=[],
            channels=first[1],
            classes=last[0],
            options={"conv_dim": first[0], "layers": layers, "image_size": last[2] * 2**layers},
        )

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        layers = int(options["layers"])
        return Discriminator(
            conv_dim=int(options["conv_dim"]),
            domains=architecture.classes,
            channels=int(architecture.channels or 0),
            layers=layers,
            kernel=int(options["image_size"]) // 2**layers,
        )

    def layout(self, architecture: Architecture) -> Layout:  # noqa: ARG002
        return Layout(stem=(), sections=(), head=())

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:  # noqa: ARG002
        """None: a discriminator only helps to train a generator and is never made shallower."""
        return []

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        side = int(architecture.options["image_size"])
        return (torch.zeros(1, int(architecture.channels or 0), side, side),)


def _layout(names: str, blocks: int) -> Layout:
    if names == FLAT:
        # In one sequence, as in the original code, the start of the head depends on the number of blocks.
        places = numbered("main", STEM_MODULES + blocks + HEAD_MODULES)
        return Layout(places[:STEM_MODULES], (places[STEM_MODULES:-HEAD_MODULES],), places[-HEAD_MODULES:])
    return Layout(
        numbered("downsampling_layers", STEM_MODULES),
        (numbered(TRUNKS[names], blocks),),
        numbered("upsampling_layers", HEAD_MODULES),
    )


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(re.match(pattern, key) is not None for key in shapes)


def _depth(blocks: int) -> int:
    """Number of convolutions: three in the stem, two per block, three in the head."""
    return 2 * blocks + 6
