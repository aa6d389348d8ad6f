"""The forward pass of a CIFAR ResNeXt, as naively as possible: each group is a convolution of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.lit_core.naive import Net, Parts, conv, norm

LAYER = {
    "stem": ("conv1", "bn1"),
    "block": "layer{section}.{block}",
    "norms": ("bn1", "bn2", "bn3"),
    "convs": ("conv1", "conv2", "conv3"),
    "short": ("downsample.0", "downsample.1"),
    "head": "fc",
}
STAGE = {
    "stem": ("conv_1_3x3", "bn_1"),
    "block": "stage_{section}.stage_{section}_bottleneck_{block}",
    "convs": ("conv_reduce", "conv_conv", "conv_expand"),
    "norms": ("bn_reduce", "bn", "bn_expand"),
    "short": ("shortcut.shortcut_conv", "shortcut.shortcut_bn"),
    "head": "classifier",
}


def words(net: Net) -> dict:
    return STAGE if "conv_1_3x3.weight" in net.tensors else LAYER


def grouped(x: Tensor, w: Tensor, stride: int) -> Tensor:
    groups = x.shape[1] // w.shape[1]
    outs = w.shape[0] // groups
    made = []
    for g in range(groups):
        part = x[:, g * w.shape[1] : (g + 1) * w.shape[1]]
        made.append(conv(part, w[g * outs : (g + 1) * outs], stride, 1))
    return torch.cat(made, dim=1)


def stem(net: Net, x: Tensor, track: bool) -> Tensor:
    convolution, bn = words(net)["stem"]
    batch = net.training and not net.frozen_stem
    return norm(net, bn, conv(x, net.tensors[f"{convolution}.weight"], 1, 1), batch, track).clamp(min=0)


def section(net: Net, n: int, x: Tensor, track: bool) -> Tensor:
    w, batch = words(net), net.training
    for b in range(net.blocks[n]):
        p = w["block"].format(section=n + 1, block=b)
        stride = 2 if n > 0 and b == 0 else 1
        first, second, third = (net.tensors[f"{p}.{name}.weight"] for name in w["convs"])
        one, two, three = (f"{p}.{name}" for name in w["norms"])
        y = norm(net, one, conv(x, first, 1, 0), batch, track).clamp(min=0)
        y = norm(net, two, grouped(y, second, stride), batch, track).clamp(min=0)
        y = norm(net, three, conv(y, third, 1, 0), batch, track)
        convolution, bn = (f"{p}.{name}" for name in w["short"])
        if f"{convolution}.weight" in net.tensors:
            x = norm(net, bn, conv(x, net.tensors[f"{convolution}.weight"], stride, 0), batch, track)
        x = (y + x).clamp(min=0)
    return x


def head(net: Net, x: Tensor) -> Tensor:
    name = words(net)["head"]
    pooled = x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])
    return pooled @ net.tensors[f"{name}.weight"].T + net.tensors[f"{name}.bias"]


PARTS = Parts(stem, section, head)
