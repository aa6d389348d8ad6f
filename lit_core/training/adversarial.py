"""The adversarial fine-tuning of a generator (Choi et al., CVPR 2018, section 3; WGAN-GP: Gulrajani et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.objectives import Losses
from lit_core.training.updaters import make_optimizer, minimise
from lit_spec import Adversarial, Part, Schedule

GENERATOR_LOSSES = ("adversarial_loss", "classification_loss", "reconstruction_loss")
DISCRIMINATOR_LOSSES = ("discriminator_adversarial_loss", "discriminator_classification_loss", "gradient_penalty")


def domain_loss(logits: Tensor, domains: Tensor, *, exclusive: bool) -> Tensor:
    """Cross entropy of the domains (B, D) of zeros and ones, the mean over the batch.

    If every image has exactly one domain (`exclusive`) it is that of the softmax, else the sum of the binary ones.
    """
    if exclusive:
        return F.cross_entropy(logits, domains)
    return F.binary_cross_entropy_with_logits(logits, domains, reduction="sum") / len(logits)


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """`E (‖∇ D(x̂)‖ - 1)²` at x̂ = m·real + (1-m)·fake, with m (B, 1, 1, 1) in 0..1."""
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    scores, _ = discriminator(between)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return (norms - 1).square().mean()


def discriminator_losses(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    own: Tensor,
    mix: Tensor,
    weights: Adversarial,
    *,
    exclusive: bool,
) -> Losses:
    """`E D(fake) - E D(real) + λ_gp·GP + λ_cls·H(own, D_cls(real))` (equations 2, 5 and 8)."""
    scores, logits = discriminator(real)
    critic = discriminator(fake)[0].mean() - scores.mean()
    domains = domain_loss(logits, own, exclusive=exclusive)
    penalty = gradient_penalty(discriminator, real, fake, mix)
    total = critic + weights.classification * domains + weights.gradient_penalty * penalty
    return Losses(total, dict(zip(DISCRIMINATOR_LOSSES, (critic, domains, penalty), strict=True)))


def generator_losses(
    generator: nn.Module,
    discriminator: nn.Module,
    real: Tensor,
    own: Tensor,
    target: Tensor,
    weights: Adversarial,
    *,
    exclusive: bool,
) -> Losses:
    """`-E D(G(x, c)) + λ_cls·H(c, D_cls(G(x, c))) + λ_rec·E |x - G(G(x, c), c')|` (equations 3, 4, 6 and 8)."""
    fake = generator(real, target)
    scores, logits = discriminator(fake)
    critic = -scores.mean()
    domains = domain_loss(logits, target, exclusive=exclusive)
    reconstruction = F.l1_loss(generator(fake, own), real)
    total = critic + weights.classification * domains + weights.reconstruction * reconstruction
    return Losses(total, dict(zip(GENERATOR_LOSSES, (critic, domains, reconstruction), strict=True)))


class AdversarialUpdater:
    """Trains student and discriminator against each other: the discriminator in every step, the student in every
    n_critic-th.

    The student's losses are those of its last step, or before the first one its losses at the beginning.
    """

    watched: str | None = None
    """The student's losses rise whenever the discriminator gets better."""
    names: Sequence[str] = ("loss", *GENERATOR_LOSSES, "discriminator_loss", *DISCRIMINATOR_LOSSES)

    def __init__(
        self,
        student: SectionedNetwork,
        discriminator: nn.Module,
        weights: Adversarial,
        schedule: Schedule,
        *,
        frozen: Sequence[Part],
        exclusive: bool,
    ) -> None:
        self.student, self.discriminator, self.weights = student, discriminator, weights
        self.schedule, self.frozen, self.exclusive = schedule, list(frozen), exclusive
        self.begin_epoch()
        self.optimizer = make_optimizer(student.network, schedule)
        self.discriminator_optimizer = make_optimizer(discriminator, schedule)
        self._steps = 0
        self._students: Tensor | None = None

    def begin_epoch(self) -> None:
        self.student.train(self.frozen, batch_norm=self.schedule.batch_norm, dropout=self.schedule.dropout)
        self.discriminator.train().requires_grad_(True)

    def step(self, batch: Batch, learning_rate: float) -> Tensor:
        discriminators = self._train_discriminator(batch, learning_rate)
        self._steps += 1
        # The student's gradients pass through the discriminator, but its own gradients are not needed there.
        self.discriminator.requires_grad_(False)
        if self._steps % self.weights.n_critic == 0:
            losses = self._student_losses(batch)
            minimise(losses.total, self.optimizer, learning_rate, self.schedule.gradient_clip, batch.share)
            self._students = _row(losses, batch)
        elif self._students is None:
            with torch.no_grad():
                self._students = _row(self._student_losses(batch), batch)
        self.discriminator.requires_grad_(True)
        return torch.cat([self._students, discriminators])

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "steps": self._steps,
            "student_losses": self._students,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._steps = state["steps"]
        losses = state["student_losses"]
        self._students = None if losses is None else losses.to(next(self.discriminator.parameters()).device)

    def _train_discriminator(self, batch: Batch, learning_rate: float) -> Tensor:
        real, target = batch.inputs

        def draw(rows: int) -> Tensor:
            return torch.rand(rows, 1, 1, 1, generator=batch.generator, dtype=torch.float64)

        mix = batch.share.rows_of(draw, len(real)).to(real)
        with torch.no_grad(), batch.share.whole_statistics():
            fake = self.student.network(real, target)
        with batch.share.whole_statistics():
            losses = discriminator_losses(
                self.discriminator, real, fake, batch.labels, mix, self.weights, exclusive=self.exclusive
            )
        rate, clip = learning_rate, self.schedule.gradient_clip
        minimise(losses.total, self.discriminator_optimizer, rate, clip, batch.share)
        return _row(losses, batch)

    def _student_losses(self, batch: Batch) -> Losses:
        real, target = batch.inputs
        with batch.share.whole_statistics():
            return generator_losses(
                self.student.network,
                self.discriminator,
                real,
                batch.labels,
                target,
                self.weights,
                exclusive=self.exclusive,
            )


def _row(losses: Losses, batch: Batch) -> Tensor:
    return batch.share.mean(torch.stack([loss.detach().double() for loss in (losses.total, *losses.parts.values())]))
