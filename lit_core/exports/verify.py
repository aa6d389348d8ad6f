"""Comparing an export with the torch network, over a whole split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lit_core.data.labels import NO_LABEL

Inputs = tuple[Tensor, ...]
Batches = Callable[[], Iterable[tuple[Inputs, Tensor]]]
"""Each call gives the inputs and labels of the split on which exports are compared, batch by batch."""
Run = Callable[[Inputs], Tensor]
"""Runs an export's file: inputs on the CPU -> output."""
Calibration = Callable[[], Iterable[Inputs]]
"""Gives preprocessed training samples, batch by batch."""

LARGEST_DIFFERENCE = 1e-3
"""Of outputs, relative to the largest output, or absolute if that is below 1."""
LEAST_AGREEMENT = 99.9


@dataclass(frozen=True)
class Details:
    """What some formats take beside the network."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of the model; JSON by key."""
    calibration: Calibration = tuple
    """For quantisation."""


class Unfaithful(Exception):
    """An export does not compute what the torch network computes."""


@dataclass(frozen=True)
class ExportComparison:
    max_abs_difference: float
    """Between the export's outputs and the torch network's."""
    largest: float
    """Absolute value of the torch network's outputs."""
    top1_agreement: float | None
    """Percent of the samples to which both give the same answer; None for a generator."""
    accuracy: float | None
    """Of the export, percent of the samples with a label; None for a generator and without labels."""
    samples: int


@torch.no_grad()
def compare(network: nn.Module, run: Run, batches: Batches, *, classifier: bool) -> ExportComparison:
    """Compare the outputs (B, …) for every batch, and for the first sample alone, because a batch of one is special.

    `network` is on the CPU and in eval mode. Raises Unfaithful for outputs of another shape and for ones that are not
    finite, ValueError where there are no samples.
    """
    difference = largest = 0.0
    agreed = correct = labelled = samples = 0
    for inputs, labels in _on_cpu(batches):
        if not samples:
            difference, largest = _differ(network, run, tuple(x[:1] for x in inputs))[2:]
        wanted, found, here, size = _differ(network, run, inputs)
        difference, largest = max(difference, here), max(largest, size)
        samples += len(wanted)
        if classifier:
            answers = found.argmax(dim=1)
            agreed += int((answers == wanted.argmax(dim=1)).sum())
            correct += int((answers == labels).sum())
            labelled += int((labels != NO_LABEL).sum())
    if not samples:
        raise ValueError("there are no samples to compare on")
    return ExportComparison(
        max_abs_difference=difference,
        largest=largest,
        top1_agreement=round(100 * agreed / samples, 4) if classifier else None,
        accuracy=round(100 * correct / labelled, 4) if labelled else None,
        samples=samples,
    )


def check(found: ExportComparison) -> None:
    """Check an export that computes in floating point. Raises Unfaithful."""
    bound = LARGEST_DIFFERENCE * max(1.0, found.largest)
    if found.max_abs_difference > bound:
        raise Unfaithful(
            f"outputs differ from the torch network's by up to {found.max_abs_difference:.3g}, more than {bound:.3g}"
        )
    if found.top1_agreement is not None and found.top1_agreement < LEAST_AGREEMENT:
        raise Unfaithful(f"only {found.top1_agreement:.2f} % of the answers are the torch network's")


def _on_cpu(batches: Batches) -> Iterator[tuple[Inputs, Tensor]]:
    for inputs, labels in batches():
        if len(labels):
            yield tuple(x.detach().cpu().contiguous() for x in inputs), labels.cpu()


def _differ(network: nn.Module, run: Run, inputs: Inputs) -> tuple[Tensor, Tensor, float, float]:
    """Both outputs, their largest difference and the network's largest absolute value."""
    wanted, found = network(*inputs).float(), run(inputs).float()
    if found.shape != wanted.shape:
        raise Unfaithful(f"the output has the shape {tuple(found.shape)}, the torch network's {tuple(wanted.shape)}")
    difference, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    # Python's max() ignores NaN, and JSON does not have it.
    if not math.isfinite(difference):
        raise Unfaithful("the outputs are not finite")
    return wanted, found, difference, largest
