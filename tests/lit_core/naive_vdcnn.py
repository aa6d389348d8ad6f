"""The forward pass of a VDCNN, as naively as possible: sums over shifted copies, and pooling by loops."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.lit_core.naive import Net, Parts, norm


def conv(net: Net, name: str, x: Tensor, stride: int = 1) -> Tensor:
    w = net.tensors[f"{name}.weight"]
    out, _, width = w.shape
    around = (width - 1) // 2
    empty = torch.zeros(x.shape[0], x.shape[1], around, dtype=x.dtype)
    padded = torch.cat([empty, x, empty], dim=2)
    y = torch.zeros(x.shape[0], out, x.shape[2], dtype=x.dtype)
    for shift in range(width):
        y = y + torch.einsum("oc,ncl->nol", w[:, :, shift], padded[:, :, shift : shift + x.shape[2]])
    if f"{name}.bias" in net.tensors:
        y = y + net.tensors[f"{name}.bias"][None, :, None]
    return y[:, :, ::stride]


def largest(x: Tensor, k: int) -> Tensor:
    """The k largest of each row, in their order. A tie at the edge would leave the choice open: there must be none."""
    rows = []
    for row in x.reshape(-1, x.shape[2]):
        values = row.tolist()
        by_size = sorted(range(len(row)), key=lambda place: -values[place])
        assert k == len(row) or values[by_size[k - 1]] > values[by_size[k]], "a tie: choose other data"
        rows.append(torch.stack([row[place] for place in sorted(by_size[:k])]))
    return torch.stack(rows).reshape(x.shape[0], x.shape[1], k)


def maxpool(x: Tensor) -> Tensor:
    """Windows of three around every second place."""
    columns = []
    for place in range(0, x.shape[2], 2):
        columns.append(x[:, :, max(place - 1, 0) : place + 2].amax(dim=2))
    return torch.stack(columns, dim=2)


def stem(net: Net, x: Tensor, track: bool) -> Tensor:
    looked_up = [torch.stack([net.tensors["character_embedding.weight"][c] for c in text]).T for text in x]
    return conv(net, "conv1", torch.stack(looked_up))


def section(net: Net, n: int, x: Tensor, track: bool) -> Tensor:
    for b in range(net.blocks[n]):
        p = f"sections.section_{n}.block_{b}"
        widens = net.tensors[f"{p}.conv1.weight"].shape[0] > x.shape[1]
        way = net.options["downsampling"] if widens else "none"
        if way == "maxpool":
            x = maxpool(x)
        if way == "kmaxpool":
            x = largest(x, x.shape[2] // 2)
        stride = 2 if way == "conv" else 1
        y = norm(net, f"{p}.bn1", conv(net, f"{p}.conv1", x, stride), net.training, track).clamp(min=0)
        y = norm(net, f"{p}.bn2", conv(net, f"{p}.conv2", y), net.training, track)
        if net.options["shortcut"]:
            y = y + (conv(net, f"{p}._shortcut.0", x, stride) if widens else x)
        x = y.clamp(min=0)
    return x


def head(net: Net, x: Tensor) -> Tensor:
    k = net.tensors["fc1.weight"].shape[1] // x.shape[1]
    h = largest(x, k).reshape(len(x), -1)
    for name in ("fc1", "fc2"):
        h = (h @ net.tensors[f"{name}.weight"].T + net.tensors[f"{name}.bias"]).clamp(min=0)
    return h @ net.tensors["fc3.weight"].T + net.tensors["fc3.bias"]


PARTS = Parts(stem, section, head)
