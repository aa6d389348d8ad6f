"""A training step of LIT as one writes it first: eager, one pass after another, and nothing shared between them.

Knows nothing of lit_core. The blocks of a section are the networks' own modules, and hooks on them stay registered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[], None]
"""Takes one optimiser step and leaves its gradients in the parameters."""


@dataclass
class Recorded:
    """What entered and left the sections in the last pass."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    others: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    """The other arguments of the sections' blocks, such as masks."""


def record(sections: Sequence[Sequence[nn.Module]]) -> Recorded:
    found = Recorded()

    def before(number: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.inputs[number] = args[0].clone()
            found.others[number] = args[1:], kwargs

        return hook

    def after(number: int) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            found.outputs[number] = output.clone()

        return hook

    for number, blocks in enumerate(sections):
        blocks[0].register_forward_pre_hook(before(number), with_kwargs=True)
        blocks[-1].register_forward_hook(after(number))
    return found


def kd(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, tau: float) -> Tensor:
    soft = -(F.softmax(teacher / tau, dim=1) * F.log_softmax(student / tau, dim=1)).sum(dim=1).mean()
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * tau**2 * soft


def lit_step(
    teacher: nn.Module,
    student: nn.Module,
    teacher_sections: Sequence[Sequence[nn.Module]],
    student_sections: Sequence[Sequence[nn.Module]],
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    tau: float,
    ir: bool,
) -> Step:
    """`β·KD + (1-β)·Σ MSE`; without `ir` KD alone. BatchNorm's running statistics, which no gradient depends on in
    training mode, are updated on every path."""
    taught = record(teacher_sections)

    def step() -> None:
        with torch.no_grad():
            wanted = teacher(inputs)
        terms = []
        if beta > 0 or not ir:
            terms.append((beta if ir else 1.0) * kd(student(inputs), wanted, labels, alpha, tau))
        for number, blocks in enumerate(student_sections if ir else []):
            x = taught.inputs[number].clone()
            others, named = taught.others[number]
            for block in blocks:
                x = block(x, *others, **named)
            terms.append((1 - beta) * F.mse_loss(x, taught.outputs[number]))
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def label_step(student: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> Step:
    """The student alone with cross entropy: the least that a training of it costs."""

    def step() -> None:
        loss = F.cross_entropy(student(inputs), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
