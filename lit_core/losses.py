"""The losses of LIT (Koratana et al., ICML 2019, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_core.sections import SectionedNetwork, Trace, untracked_statistics
from lit_core.spec import IrLoss, Part


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, tau: float) -> Tensor:
    """`α·H(y, σ(z_S)) + (1-α)·τ²·H(σ(z_T/τ), σ(z_S/τ))`, the mean over the batch.

    Logits are (B, classes), labels (B,) integers. H is the cross entropy, so the soft term's minimum is the
    teacher's entropy and not zero.
    """
    hard = F.cross_entropy(student_logits, labels)
    soft = F.cross_entropy(student_logits / tau, F.softmax(teacher_logits / tau, dim=1))
    return alpha * hard + (1 - alpha) * tau**2 * soft


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1)).mean()


IR_LOSSES: dict[IrLoss, Callable[[Tensor, Tensor], Tensor]] = {
    IrLoss.MSE: F.mse_loss,
    IrLoss.L1: F.l1_loss,
    IrLoss.SMOOTH_L1: F.smooth_l1_loss,
    IrLoss.COSINE: _cosine,
}


@dataclass(frozen=True)
class Losses:
    """One batch's losses, scalars. `kd` is None at β = 0, `ir` is empty at β = 1."""

    total: Tensor
    kd: Tensor | None
    ir: list[Tensor]


@dataclass(frozen=True)
class LitLoss:
    """`β·KD + (1-β)·IR` with `IR = Σ_n ℓ(T_n(x), S_n(T_{n-1}(x)))`."""

    alpha: float
    beta: float
    tau: float
    ir_loss: IrLoss
    frozen: list[Part]

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, x: Tensor, labels: Tensor) -> Losses:
        """Run teacher and student on x (B, C, H, W). The KD path updates the student's BatchNorm statistics; the
        IR path leaves them alone, except at β = 0, where it is the only one."""
        with torch.no_grad():
            taught = teacher.trace(x)
        traced = student.trace(x) if self.beta > 0 else None
        kd = kd_loss(traced.logits, taught.logits, labels, self.alpha, self.tau) if traced else None
        ir = self._ir(taught, student, traced) if self.beta < 1 else []
        terms = []
        if kd is not None:
            terms.append(self.beta * kd)
        if ir:
            terms.append((1 - self.beta) * torch.stack(ir).sum())
        return Losses(torch.stack(terms).sum(), kd, ir)

    def _ir(self, taught: Trace, student: SectionedNetwork, traced: Trace | None) -> list[Tensor]:
        measure = IR_LOSSES[self.ir_loss]
        losses = []
        for n, section in enumerate(student.sections):
            if n == 0 and traced is not None and Part.STEM in self.frozen:
                # A frozen stem gives student and teacher the same representation: the KD path ran this section on it.
                made = traced.outputs[0]
            else:
                with untracked_statistics(section) if traced is not None else nullcontext():
                    made = section(taught.inputs[n])
            losses.append(measure(made, taught.outputs[n]))
        return losses


@dataclass(frozen=True)
class FineTuneLoss:
    """KD alone."""

    alpha: float
    tau: float

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, x: Tensor, labels: Tensor) -> Losses:
        with torch.no_grad():
            teacher_logits = teacher.network(x)
        kd = kd_loss(student.network(x), teacher_logits, labels, self.alpha, self.tau)
        return Losses(kd, kd, [])
