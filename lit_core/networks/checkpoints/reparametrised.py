"""Weights that a state dict holds in parts, put together again: weight norm, spectral norm, and pruning with masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CLEARLY = 1.5
PARAMETRISED = ".parametrizations."
"""In names since torch.nn.utils.parametrize."""


def folded(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with whole weights, and what was done. What does not fit together stays as it is."""
    counts: dict[str, int] = {}
    left, whole = dict(tensors), {}
    for name in tensors:
        if name not in left or (parts := _parts(name, left)) is None:
            continue
        made = parts.form.join(*(left[part] for part in parts.names))
        if made is None:
            continue
        left = {other: tensor for other, tensor in left.items() if other not in parts.names}
        whole[parts.place] = made
        counts[parts.form.kind] = counts.get(parts.form.kind, 0) + 1
    return {**left, **whole}, [f"{kind} of {count} tensor{'s' * (count > 1)} folded" for kind, count in counts.items()]


def _weight_norm(g: Tensor, v: Tensor) -> Tensor | None:
    """g · v / ‖v‖. The norms are of all axes but those along which g has as many values as v (Salimans & Kingma,
    2016)."""
    if v.ndim == 0 or g.ndim not in (0, v.ndim) or any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=False)):
        return None
    g, v = g.float(), v.float()
    axes = [axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1]
    norm: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    return g * v / norm


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """W / σ with σ = uᵀ W v, W as a matrix with the axis first that u belongs to (Miyato et al., 2018)."""
    if u.ndim != 1 or v.ndim != 1 or weight.numel() != len(u) * len(v) or not weight.numel():
        return None
    weight = weight.float()
    fitting = [axis for axis, size in enumerate(weight.shape) if size == len(u)]
    sigmas = [u.float() @ weight.movedim(axis, 0).flatten(1) @ v.float() for axis in fitting]
    if not sigmas:
        return None
    # Of a transposed convolution with as many inputs as outputs both axes fit; the right one has the larger σ, because
    # u and v are its singular vectors. Before the training they are random.
    return weight / next((sigma for sigma in sigmas[1:] if sigma > CLEARLY * sigmas[0]), sigmas[0])


def _masked(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask if weight.shape == mask.shape else None


@dataclass(frozen=True)
class Form:
    kind: str
    endings: tuple[str, ...]
    join: Callable[..., Tensor | None]
    """None for tensors that do not fit together."""
    parametrised: bool = False


FORMS = (
    Form("weight norm", ("_g", "_v"), _weight_norm),
    Form("weight norm", (".original0", ".original1"), _weight_norm, parametrised=True),
    Form("spectral norm", ("_orig", "_u", "_v"), _spectral_norm),
    Form("spectral norm", (".original", ".0._u", ".0._v"), _spectral_norm, parametrised=True),
    Form("pruning masks", ("_orig", "_mask"), _masked),
)
"""Of torch.nn.utils: weight_norm, spectral_norm, both by parametrizations too, and prune."""


@dataclass(frozen=True)
class Parts:
    form: Form
    names: list[str]
    place: str
    """The name of the whole tensor."""


def _parts(name: str, tensors: Mapping[str, Tensor]) -> Parts | None:
    """The parts of which `name` is the first; None if it is no part."""
    for form in FORMS:
        stem = name.removesuffix(form.endings[0])
        names = [stem + ending for ending in form.endings]
        plain = f".{stem}".replace(PARAMETRISED, ".")[1:]
        if names[0] == name and all(part in tensors for part in names) and (plain != stem) == form.parametrised:
            return Parts(form, names, plain)
    return None
