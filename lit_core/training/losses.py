"""The losses of the methods, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.scores import bounded_below
from lit_core.training.batch import WHOLE, Share
from lit_spec import IrLoss, SpecError


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`H(y, σ(z))`, the mean over the batch, to which samples without a label (NO_LABEL) contribute 0.

    Logits are (B, classes), labels (B,) integers.
    """
    return F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") / len(labels)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, tau: float) -> Tensor:
    """`α·H(y, σ(z_S)) + (1-α)·τ²·H(σ(z_T/τ), σ(z_S/τ))`, the mean over the batch (Koratana et al., section 3.1).

    Logits are (B, classes), labels (B,) integers. H is the cross entropy, so the soft term's minimum is the
    teacher's entropy and not zero. At α = 0 the labels are ignored.
    """
    soft = F.cross_entropy(bounded_below(student_logits) / tau, F.softmax(teacher_logits / tau, dim=1))
    loss = (1 - alpha) * tau**2 * soft
    return loss if alpha == 0 else alpha * label_loss(student_logits, labels) + loss


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1)).mean()


Measure = Callable[[Tensor, Tensor], Tensor]
"""A loss between the student's representation and the teacher's, a scalar."""

LEAST_SPREAD = 1e-6
"""Of the loss of 0. A mean that is nearer to all samples of its batch is no measure: its loss may be rounding alone."""
LEAST_LOSS = 1e-12
"""Of 0, where the teacher's representation is 0 itself."""

IR_LOSSES: dict[IrLoss, Measure] = {
    IrLoss.MSE: F.mse_loss,
    IrLoss.L1: F.l1_loss,
    IrLoss.SMOOTH_L1: F.smooth_l1_loss,
    IrLoss.COSINE: _cosine,
}


def relative_to_mean(measure: Measure, student: Tensor, teacher: Tensor, share: Share = WHOLE) -> Tensor:
    """The loss between two representations (B, …), divided by the loss of the teacher's mean over the batch: 1 for a
    student that does not look at its input. In a batch without spread, as of one sample, 0 stands for the mean. The
    mean is that of the whole batch, of which the representations may be a `share`."""
    student, teacher = _at_least_float32(student), _at_least_float32(teacher)
    of_mean = share.mean(measure(share.mean(teacher.mean(dim=0, keepdim=True)).expand_as(teacher), teacher))
    of_zero = share.mean(measure(torch.zeros_like(teacher), teacher))
    constant = torch.where(of_mean > LEAST_SPREAD * of_zero, of_mean, of_zero)
    return measure(student, teacher) / constant.clamp_min(LEAST_LOSS)


def _at_least_float32(tensor: Tensor) -> Tensor:
    """In bfloat16 the mean of a representation may be off by more than its spread."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def feature_loss(student: Tensor, teacher: Tensor, share: Share = WHOLE) -> Tensor:
    """Feature mimicking: the relative MSE of two features (B, …)."""
    return relative_to_mean(F.mse_loss, student, teacher, share)


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of two embeddings (B, D), the mean over the batch."""
    return _cosine(student, teacher)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of the attention maps of two representations (B, C, …).

    A map is the mean over channels of the squared values, flattened and scaled to length 1 (Zagoruyko and Komodakis,
    ICLR 2017, section 3.1, with p = 2; as a mean over positions, as in their code). Raises SpecError for
    representations (B, C), which have no positions.
    """
    if student.ndim < 3:
        raise SpecError(
            "method", f"at needs representations (B, C, …), but the teacher's are {list(student.shape)}: use lit"
        )
    return (_attention(student) - _attention(teacher)).square().mean()


def _attention(representation: Tensor) -> Tensor:
    return F.normalize(representation.square().mean(dim=1).flatten(1), dim=1)


def total_of(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()
