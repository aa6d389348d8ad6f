"""How near a student's outputs are to its teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.real.data import Inputs
from benchmarks.real.networks import Output
from lit_core.measuring.scores import agreement

BATCH = 100


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Inputs) -> Tensor:
    """Of a network in eval mode, (N, …)."""
    starts = range(0, len(inputs[0]), BATCH)
    return torch.cat([network(*(x[start : start + BATCH] for x in inputs)) for start in starts])


def scores(student: Tensor, teacher: Tensor, output: Output) -> dict[str, float]:
    """Of logits the agreement in percent and the KL divergence in nats; of embeddings the mean cosine and Spearman's
    rank correlation of the cosines of all pairs of samples."""
    if output == Output.CLASSES:
        found = {"agreement": agreement(student, teacher), "kl": _kl(student, teacher)}
    else:
        cosine = F.cosine_similarity(student, teacher, dim=1).mean().item()
        found = {"cosine": cosine, "spearman": spearman(_similarities(student), _similarities(teacher))}
    return {name: round(value, 5) for name, value in found.items()}


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors without ties."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def _kl(student: Tensor, teacher: Tensor) -> float:
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean").item()


def _similarities(embeddings: Tensor) -> Tensor:
    unit = F.normalize(embeddings, dim=1)
    rows, columns = torch.triu_indices(len(unit), len(unit), 1)
    return (unit @ unit.T)[rows, columns]
