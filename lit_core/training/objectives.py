"""Objectives: what each method minimises in each phase, computed from one batch.

An objective runs teacher and student itself, because methods differ in the forward passes that they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lit_core.networks.sections import SectionedNetwork, Trace, untracked_statistics
from lit_core.training.losses import IR_LOSSES, attention_loss, kd_loss, label_loss, total_of
from lit_spec import Feed, Hyperparameters, IrLoss, Method, Part, Phase


@dataclass(frozen=True)
class Batch:
    """The samples of one step."""

    inputs: tuple[Tensor, ...]
    """The network's inputs: (B, C, H, W) for images, (B, L) for texts; a generator's target domains after them."""
    labels: Tensor
    """(B,) int64, NO_LABEL for a sample without a label. For a generator: the images' own domains (B, domains)."""
    progress: float = 0.0
    """How much of the phase is done, from 0 to 1."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """On the CPU, so that everything drawn in this step is the same on every device."""


@dataclass(frozen=True)
class Losses:
    """The losses of one batch, all scalars: the one that is minimised, and its parts by metric name."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    @property
    def names(self) -> Sequence[str]:
        """Names of the parts, in order; the same for every batch."""

    @property
    def watched(self) -> str | None:
        """`loss` or one of the names: see `Updater.watched`."""

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, batch: Batch) -> Losses: ...


class LabelObjective:
    """`H(y, σ(z_S))`: training without a teacher."""

    names = ("label_loss",)
    watched = "loss"

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, batch: Batch) -> Losses:  # noqa: ARG002
        loss = label_loss(student.run(*batch.inputs), batch.labels)
        return Losses(loss, {"label_loss": loss})


@dataclass(frozen=True)
class KdObjective:
    """KD without a loss between representations."""

    alpha: float
    tau: float
    names: Sequence[str] = ("kd_loss",)
    watched: str | None = "loss"

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, batch: Batch) -> Losses:
        with torch.no_grad():
            taught = teacher.run(*batch.inputs)
        kd = kd_loss(student.run(*batch.inputs), taught, batch.labels, self.alpha, self.tau)
        return Losses(kd, {"kd_loss": kd})


@dataclass(frozen=True)
class AttentionObjective:
    """`KD + w/2 · Σ_n AT(S_n, T_n)` over the sections (Zagoruyko and Komodakis, ICLR 2017, equation 2)."""

    alpha: float
    tau: float
    weight: float
    names: Sequence[str] = ("kd_loss", "attention_loss")
    watched: str | None = "loss"

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, batch: Batch) -> Losses:
        with torch.no_grad():
            taught = teacher.trace(*batch.inputs)
        made = student.trace(*batch.inputs)
        kd = kd_loss(made.output, taught.output, batch.labels, self.alpha, self.tau)
        pairs = zip(made.outputs, taught.outputs, strict=True)
        attention = total_of([attention_loss(own, wanted) for own, wanted in pairs])
        return Losses(kd + self.weight / 2 * attention, {"kd_loss": kd, "attention_loss": attention})


class LitObjective:
    """`β·KD + (1-β)·IR` with `IR = Σ_n ℓ(T_n(x), S_n(·))` (Koratana et al., ICML 2019, section 3.2).

    On the IR path, `feed` chooses the input of each section of the student: the teacher's representation, or the output
    of the student's previous section on this path. If the KD path has already run the section on the same tensor, that
    output is used again. The KD path updates the student's BatchNorm statistics. The IR path leaves them as they are,
    except at β = 0, where it is the only path.
    """

    def __init__(
        self,
        *,
        alpha: float,
        beta: float,
        tau: float,
        ir_loss: IrLoss,
        sections: int,
        frozen: Sequence[Part],
        feed: Feed = Feed.TEACHER,
        feed_until: float = 0.8,
        noise: float = 0.0,
    ) -> None:
        self.alpha, self.beta, self.tau, self.noise = alpha, beta, tau, noise
        self.measure = IR_LOSSES[ir_loss]
        self.feed, self.feed_until = feed, feed_until
        self.stem_is_frozen = Part.STEM in frozen
        self.ir_names = [f"ir_loss_{n}" for n in range(1, sections + 1)] if beta < 1 else []
        self.names = [*(["kd_loss"] if beta > 0 else []), *self.ir_names]
        self.watched = self._watched()

    def __call__(self, teacher: SectionedNetwork, student: SectionedNetwork, batch: Batch) -> Losses:
        with torch.no_grad():
            taught = teacher.trace(*batch.inputs)
        traced = student.trace(*batch.inputs) if self.beta > 0 else None
        terms, parts = [], {}
        if traced is not None:
            parts["kd_loss"] = kd_loss(traced.output, taught.output, batch.labels, self.alpha, self.tau)
            terms.append(self.beta * parts["kd_loss"])
        if self.beta < 1:
            feeds = draw_feeds(self.feed, len(self.ir_names), batch.progress, self.feed_until, batch.generator)
            section_by_section = taught.is_chain or all(feeds)
            ir_losses = self._ir_by_section if section_by_section else self._ir_of_whole_pass
            ir = ir_losses(taught, student, traced, feeds, batch)
            parts |= dict(zip(self.ir_names, ir, strict=True))
            terms.append((1 - self.beta) * total_of(ir))
        return Losses(total_of(terms), parts)

    def _watched(self) -> str | None:
        """With a scheduled feed the IR losses rise as the student's errors pass from section to section."""
        if self.feed != Feed.SCHEDULED or self.beta == 1:
            return "loss"
        return "kd_loss" if self.beta > 0 else None

    def _ir_by_section(
        self, taught: Trace, student: SectionedNetwork, traced: Trace | None, feeds: list[bool], batch: Batch
    ) -> list[Tensor]:
        losses = []
        made: Tensor | None = None
        # Whether the next section's input is the same as on the KD path.
        shared = traced is not None and (self.stem_is_frozen or not feeds[0])
        for n, section in enumerate(student.sections):
            if feeds[n]:
                given = _noisy(taught.inputs[n], self.noise, batch.generator)
                # A frozen stem gives student and teacher the same representation.
                shared = shared and n == 0 and self.stem_is_frozen and self.noise == 0
            elif made is not None:
                given = made
            else:
                given = traced.inputs[0] if traced is not None else student.stem_output(*batch.inputs)
            if shared and traced is not None:
                made = traced.outputs[n]
            else:
                with untracked_statistics(section) if traced is not None else nullcontext():
                    # A copy, because the section may change its input in place, and the loss may need it.
                    made = section(given.clone(), student.extra_arguments_of(taught, n))
            losses.append(self.measure(made, taught.outputs[n]))
        return losses

    def _ir_of_whole_pass(
        self, taught: Trace, student: SectionedNetwork, traced: Trace | None, feeds: list[bool], batch: Batch
    ) -> list[Tensor]:
        """The IR losses for layers between sections: the student's representations pass through these layers."""
        if traced is not None and not any(feeds):
            outputs = traced.outputs
        else:
            fed = [
                _noisy(given, self.noise, batch.generator) if feed else None
                for given, feed in zip(taught.inputs, feeds, strict=True)
            ]
            with untracked_statistics(student.network) if traced is not None else nullcontext():
                outputs = student.outputs_fed(fed, *batch.inputs)
        return [self.measure(made, wanted) for made, wanted in zip(outputs, taught.outputs, strict=True)]


def draw_feeds(feed: Feed, sections: int, progress: float, until: float, generator: torch.Generator) -> list[bool]:
    """For each section: whether it is fed the teacher's representation. With the scheduled feed, the probability is
    `1 - progress / until`."""
    if feed == Feed.SCHEDULED:
        return [bool(draw < 1 - progress / until) for draw in torch.rand(sections, generator=generator).tolist()]
    return [feed == Feed.TEACHER] * sections


def _noisy(representation: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    if deviation == 0:
        return representation
    noise = torch.randn(representation.shape, generator=generator, dtype=torch.float32)
    return representation + deviation * noise.to(representation.device, representation.dtype)


def objective_of(spec: Hyperparameters, phase: Phase, sections: int) -> Objective:
    """The objective of a classifier's student in a phase."""
    if spec.method == Method.SCRATCH:
        return LabelObjective()
    if spec.method == Method.AT:
        return AttentionObjective(spec.alpha, spec.tau, spec.attention_weight)
    if spec.method.uses_representations and phase == Phase.LIT:
        return LitObjective(
            alpha=spec.alpha,
            beta=spec.beta,
            tau=spec.tau,
            ir_loss=spec.ir_loss,
            sections=sections,
            frozen=[Part(part) for part in spec.schedule.lit.frozen or []],
            feed=spec.feed,
            feed_until=spec.feed_until,
            noise=spec.noise,
        )
    return KdObjective(spec.alpha, spec.tau)
