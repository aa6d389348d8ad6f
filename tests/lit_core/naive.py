"""The formulas of LIT written down as naively as possible, to hold the real ones against.

Nothing is shared with lit_core: no module, no hook, no torch loss, no BatchNorm layer; a network is a dict of tensors
and a list of block counts, and every forward pass that the method names is a pass of its own. The formulas take the
parts of another family's network from `parts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-5
MOMENTUM = 0.1


@dataclass
class Net:
    """A CIFAR ResNet as tensors. `buffers` are changed by passes that track statistics."""

    tensors: dict[str, Tensor]
    blocks: list[int]
    frozen_stem: bool = False
    shortcut: str = "A"
    training: bool = True
    head: str = "fc"
    projection: str = "downsample"
    counts: dict[str, int] = field(default_factory=dict)
    options: dict[str, int | str | bool] = field(default_factory=dict)


def conv(x: Tensor, w: Tensor, stride: int, pad: int) -> Tensor:
    """A convolution as one matrix product over unfolded patches."""
    n, _, h, width = x.shape
    out, _, k, _ = w.shape
    patches = torch.nn.functional.unfold(x, k, padding=pad, stride=stride)
    h2, w2 = (h + 2 * pad - k) // stride + 1, (width + 2 * pad - k) // stride + 1
    return torch.einsum("ok,nkl->nol", w.reshape(out, -1), patches).reshape(n, out, h2, w2)


def norm(net: Net, name: str, x: Tensor, batch: bool, track: bool) -> Tensor:
    weight, bias = net.tensors[f"{name}.weight"], net.tensors[f"{name}.bias"]
    column = (1, -1, *(1 for _ in x.shape[2:]))
    if batch:
        count, rest = x.numel() // x.shape[1], (0, *range(2, x.ndim))
        mean = x.sum(dim=rest) / count
        var = ((x - mean.reshape(column)) ** 2).sum(dim=rest) / count
        if track:
            with torch.no_grad():
                running_mean, running_var = net.tensors[f"{name}.running_mean"], net.tensors[f"{name}.running_var"]
                running_mean.copy_((1 - MOMENTUM) * running_mean + MOMENTUM * mean)
                running_var.copy_((1 - MOMENTUM) * running_var + MOMENTUM * var * count / (count - 1))
                net.counts[name] = net.counts.get(name, 0) + 1
    else:
        mean, var = net.tensors[f"{name}.running_mean"], net.tensors[f"{name}.running_var"]
    scaled = (x - mean.reshape(column)) / torch.sqrt(var.reshape(column) + EPS)
    return scaled * weight.reshape(column) + bias.reshape(column)


def stem(net: Net, x: Tensor, track: bool) -> Tensor:
    batch = net.training and not net.frozen_stem
    return norm(net, "bn1", conv(x, net.tensors["conv1.weight"], 1, 1), batch, track).clamp(min=0)


def section(net: Net, n: int, x: Tensor, track: bool) -> Tensor:
    batch = net.training
    for b in range(net.blocks[n]):
        p = f"layer{n + 1}.{b}"
        stride = 2 if n > 0 and b == 0 else 1
        y = norm(net, f"{p}.bn1", conv(x, net.tensors[f"{p}.conv1.weight"], stride, 1), batch, track).clamp(min=0)
        y = norm(net, f"{p}.bn2", conv(y, net.tensors[f"{p}.conv2.weight"], 1, 1), batch, track)
        if y.shape == x.shape:
            short = x
        elif net.shortcut == "B":
            q = f"{p}.{net.projection}"
            short = norm(net, f"{q}.1", conv(x, net.tensors[f"{q}.0.weight"], stride, 0), batch, track)
        else:
            short = torch.zeros_like(y)
            start = (y.shape[1] - x.shape[1]) // 2
            short[:, start : start + x.shape[1]] = x[:, :, ::2, ::2]
        x = (y + short).clamp(min=0)
    return x


def head(net: Net, x: Tensor) -> Tensor:
    pooled = x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])
    return pooled @ net.tensors[f"{net.head}.weight"].T + net.tensors[f"{net.head}.bias"]


class Parts(NamedTuple):
    """A family's forward pass in pieces."""

    stem: Callable[[Net, Tensor, bool], Tensor]
    section: Callable[[Net, int, Tensor, bool], Tensor]
    head: Callable[[Net, Tensor], Tensor]


RESNET = Parts(stem, section, head)


def logits(net: Net, x: Tensor, track: bool = True, parts: Parts = RESNET) -> Tensor:
    x = parts.stem(net, x, track)
    for n in range(len(net.blocks)):
        x = parts.section(net, n, x, track)
    return parts.head(net, x)


def log_softmax(z: Tensor) -> Tensor:
    return z - z.exp().sum(dim=1, keepdim=True).log()


def cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """H(p, σ(z)), the mean over the batch."""
    return -(p * log_softmax(z)).sum() / z.shape[0]


def kd(z_s: Tensor, z_t: Tensor, y: Tensor, alpha: float, tau: float) -> Tensor:
    one_hot = torch.zeros_like(z_s)
    one_hot[torch.arange(len(y)), y] = 1.0
    soft = log_softmax(z_t / tau).exp()
    return alpha * cross_entropy(one_hot, z_s) + (1 - alpha) * tau**2 * cross_entropy(soft, z_s / tau)


def distance(kind: str, a: Tensor, b: Tensor) -> Tensor:
    d = a - b
    if kind == "mse":
        return (d * d).sum() / d.numel()
    if kind == "l1":
        return d.abs().sum() / d.numel()
    if kind == "smooth_l1":
        return torch.where(d.abs() < 1, d * d / 2, d.abs() - 0.5).sum() / d.numel()
    if kind == "cosine":
        a, b = a.flatten(1), b.flatten(1)
        return (1 - (a * b).sum(1) / ((a * a).sum(1).sqrt() * (b * b).sum(1).sqrt())).sum() / len(a)
    raise AssertionError(kind)


def attention(x: Tensor) -> Tensor:
    maps = (x * x).sum(1) / x.shape[1]
    maps = maps.reshape(len(maps), -1)
    return maps / (maps * maps).sum(1, keepdim=True).sqrt()


def at(
    teacher: Net,
    student: Net,
    x: Tensor,
    y: Tensor,
    *,
    alpha: float,
    tau: float,
    weight: float,
    parts: Parts = RESNET,
) -> Tensor:
    """KD + weight/2 · Σ mean (Q_S/‖Q_S‖ - Q_T/‖Q_T‖)²."""
    with torch.no_grad():
        h_t = parts.stem(teacher, x, False)
    h_s = parts.stem(student, x, True)
    total = torch.zeros((), dtype=h_s.dtype)
    for n in range(len(student.blocks)):
        with torch.no_grad():
            h_t = parts.section(teacher, n, h_t, False)
        h_s = parts.section(student, n, h_s, True)
        d = attention(h_s) - attention(h_t)
        total = total + weight / 2 * (d * d).sum() / d.numel()
    return total + kd(parts.head(student, h_s), parts.head(teacher, h_t).detach(), y, alpha, tau)


def lit(
    teacher: Net,
    student: Net,
    x: Tensor,
    y: Tensor,
    *,
    alpha: float,
    beta: float,
    tau: float,
    ir_loss: str,
    feeds: tuple[bool, ...] | None = None,
    parts: Parts = RESNET,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """(total, KD, IR per section) of β·KD + (1-β)·Σ ℓ(T_n(x), S_n(·)).

    Section n is fed T_{n-1}(x) where `feeds[n]`, and else what the student's section before put out on the IR path.
    """
    sections = len(student.blocks)
    feeds = feeds or (True,) * sections
    with torch.no_grad():
        t = [parts.stem(teacher, x, False)]
        for n in range(sections):
            t.append(parts.section(teacher, n, t[-1], False))
        z_t = parts.head(teacher, t[-1])
    kd_value = None
    if beta > 0:
        kd_value = kd(logits(student, x, True, parts), z_t, y, alpha, tau)
    ir: list[Tensor] = []
    if beta < 1:
        own = None if feeds[0] else parts.stem(student, x, beta == 0)
        for n in range(sections):
            own = parts.section(student, n, t[n] if feeds[n] else own, beta == 0)
            ir.append(distance(ir_loss, own, t[n + 1]))
    total = torch.zeros((), dtype=z_t.dtype)
    if kd_value is not None:
        total = total + beta * kd_value
    for value in ir:
        total = total + (1 - beta) * value
    assert math.isfinite(float(total.detach()))
    return total, kd_value, ir
