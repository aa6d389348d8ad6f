"""StarGAN's networks and losses as naively as possible: tensors by name, no module, no torch loss, no optimizer.

Only the convolution by unfolded patches is shared with `naive`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.lit_core.naive import EPS, conv, distance

Tensors = dict[str, Tensor]


def instance_norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    count = x.shape[2] * x.shape[3]
    mean = x.sum(dim=(2, 3), keepdim=True) / count
    var = ((x - mean) ** 2).sum(dim=(2, 3), keepdim=True) / count
    scaled = (x - mean) / torch.sqrt(var + EPS)
    return scaled * t[f"{name}.weight"][None, :, None, None] + t[f"{name}.bias"][None, :, None, None]


def conv_transposed(x: Tensor, w: Tensor) -> Tensor:
    """4x4, stride 2, padding 1: a convolution over the image with zeros put between its pixels."""
    n, c, h, width = x.shape
    spread = torch.zeros(n, c, 2 * h - 1, 2 * width - 1, dtype=x.dtype)
    spread[:, :, ::2, ::2] = x
    return conv(spread, w.flip(2, 3).transpose(0, 1), 1, 2)


def places(blocks: int, names: str) -> tuple[list[str], list[str], list[str]]:
    """Names of the modules of stem, trunk and head."""
    if names == "main":
        every = [f"main.{i}" for i in range(17 + blocks)]
        return every[:9], every[9 : 9 + blocks], every[9 + blocks :]
    return (
        [f"downsampling_layers.{i}" for i in range(9)],
        [f"bottleneck_section1.{i}" for i in range(blocks)],
        [f"upsampling_layers.{i}" for i in range(8)],
    )


def stem(t: Tensors, p: list[str], x: Tensor, c: Tensor) -> Tensor:
    planes = torch.ones(len(x), c.shape[1], *x.shape[2:], dtype=x.dtype) * c[:, :, None, None]
    h = torch.cat([x, planes], dim=1)
    h = instance_norm(t, p[1], conv(h, t[f"{p[0]}.weight"], 1, 3)).clamp(min=0)
    h = instance_norm(t, p[4], conv(h, t[f"{p[3]}.weight"], 2, 1)).clamp(min=0)
    return instance_norm(t, p[7], conv(h, t[f"{p[6]}.weight"], 2, 1)).clamp(min=0)


def trunk(t: Tensors, p: list[str], h: Tensor) -> Tensor:
    for block in p:
        y = instance_norm(t, f"{block}.main.1", conv(h, t[f"{block}.main.0.weight"], 1, 1)).clamp(min=0)
        h = h + instance_norm(t, f"{block}.main.4", conv(y, t[f"{block}.main.3.weight"], 1, 1))
    return h


def head(t: Tensors, p: list[str], h: Tensor) -> Tensor:
    h = instance_norm(t, p[1], conv_transposed(h, t[f"{p[0]}.weight"])).clamp(min=0)
    h = instance_norm(t, p[4], conv_transposed(h, t[f"{p[3]}.weight"])).clamp(min=0)
    z = conv(h, t[f"{p[6]}.weight"], 1, 3)
    return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())


def generator(t: Tensors, blocks: int, names: str, x: Tensor, c: Tensor) -> Tensor:
    first, middle, last = places(blocks, names)
    return head(t, last, trunk(t, middle, stem(t, first, x, c)))


def ir_loss(teacher: Tensors, student: Tensors, blocks: tuple[int, int], names: str, x: Tensor, c: Tensor) -> Tensor:
    """The mean squared difference of the trunks' outputs, the student's fed what the teacher's was."""
    with torch.no_grad():
        given = stem(teacher, places(blocks[0], names)[0], x, c)
        wanted = trunk(teacher, places(blocks[0], names)[1], given)
    return distance("mse", trunk(student, places(blocks[1], names)[1], given), wanted)


def discriminator(t: Tensors, layers: int, x: Tensor) -> tuple[Tensor, Tensor]:
    h = x
    for i in range(layers):
        h = conv(h, t[f"main.{2 * i}.weight"], 2, 1) + t[f"main.{2 * i}.bias"][None, :, None, None]
        h = torch.where(h > 0, h, 0.01 * h)
    return conv(h, t["conv1.weight"], 1, 1), conv(h, t["conv2.weight"], 1, 0)[:, :, 0, 0]


def domain_loss(z: Tensor, domains: Tensor, exclusive: bool) -> Tensor:
    if exclusive:
        log_share = z - z.exp().sum(dim=1, keepdim=True).log()
        return -(domains * log_share).sum() / len(z)
    share = 1 / (1 + (-z).exp())
    return -(domains * share.log() + (1 - domains) * (1 - share).log()).sum() / len(z)


def penalty(t: Tensors, layers: int, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    scores, _ = discriminator(t, layers, between)
    slope = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)[0]
    length = torch.sqrt((slope.reshape(len(slope), -1) ** 2).sum(dim=1))
    return ((length - 1) ** 2).mean()


def discriminator_loss(
    t: Tensors,
    layers: int,
    real: Tensor,
    fake: Tensor,
    own: Tensor,
    mix: Tensor,
    weights: tuple[float, float, float],
    exclusive: bool,
) -> list[Tensor]:
    """Total and parts; `weights` are of classification, reconstruction and gradient penalty."""
    scores, z = discriminator(t, layers, real)
    adversarial = -scores.mean() + discriminator(t, layers, fake.detach())[0].mean()
    domains = domain_loss(z, own, exclusive)
    slope = penalty(t, layers, real, fake, mix)
    return [adversarial + weights[0] * domains + weights[2] * slope, adversarial, domains, slope]


def generator_loss(
    g: Tensors,
    d: Tensors,
    blocks: int,
    names: str,
    layers: int,
    real: Tensor,
    own: Tensor,
    target: Tensor,
    weights: tuple[float, float, float],
    exclusive: bool,
) -> list[Tensor]:
    fake = generator(g, blocks, names, real, target)
    scores, z = discriminator(d, layers, fake)
    adversarial = -scores.mean()
    domains = domain_loss(z, target, exclusive)
    back = (real - generator(g, blocks, names, fake, own)).abs().mean()
    return [adversarial + weights[0] * domains + weights[1] * back, adversarial, domains, back]


@dataclass
class Adam:
    """Kingma and Ba, 2015, algorithm 1."""

    rate: float
    betas: tuple[float, float]
    count: int = 0
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)

    def step(self, tensors: Tensors) -> None:
        self.count += 1
        for name, tensor in tensors.items():
            gradient = tensor.grad
            if gradient is None:
                continue
            zero = torch.zeros_like(tensor)
            self.first[name] = self.betas[0] * self.first.get(name, zero) + (1 - self.betas[0]) * gradient
            self.second[name] = self.betas[1] * self.second.get(name, zero) + (1 - self.betas[1]) * gradient**2
            mean = self.first[name] / (1 - self.betas[0] ** self.count)
            square = self.second[name] / (1 - self.betas[1] ** self.count)
            with torch.no_grad():
                tensor.copy_(tensor - self.rate * mean / (square.sqrt() + 1e-8))
            tensor.grad = None
