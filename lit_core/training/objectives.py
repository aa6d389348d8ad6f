"""Objectives: what each method minimises in each phase, computed from one batch.

An objective says what it needs of the teacher, and runs the student itself, because methods differ in the forward
passes that they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lit_core.networks.features import FeatureReader
from lit_core.networks.sections import SectionedNetwork, Trace, untracked_statistics
from lit_core.training.batch import Batch, Share
from lit_core.training.losses import (
    IR_LOSSES,
    Measure,
    attention_loss,
    embedding_loss,
    feature_loss,
    kd_loss,
    label_loss,
    relative_to_mean,
    total_of,
)
from lit_core.training.taught import Needs, Taught
from lit_spec import Feed, Hyperparameters, Method, Output, Part, Phase

OUTPUT, TRACE = Needs(), Needs(trace=True)


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

    @property
    def needs(self) -> Needs:
        """What of the teacher each batch needs."""

    def __call__(self, taught: Taught, student: SectionedNetwork, batch: Batch) -> Losses: ...


class LabelObjective:
    """`H(y, σ(z_S))`: training without a teacher."""

    names = ("label_loss",)
    watched = "loss"
    needs = Needs(output=False)

    def __call__(self, taught: Taught, student: SectionedNetwork, batch: Batch) -> Losses:  # noqa: ARG002
        loss = label_loss(student.run(*batch.inputs), batch.labels)
        return Losses(loss, {"label_loss": loss})


@dataclass(frozen=True)
class OutputLoss:
    """The loss between outputs, which is KD for logits and 1 - cosine for embeddings."""

    alpha: float
    tau: float
    output: Output = Output.LOGITS

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        if self.output == Output.EMBEDDING:
            return embedding_loss(student, teacher)
        return kd_loss(student, teacher, labels, self.alpha, self.tau)


class FeatureLoss:
    """The loss between features, with the reader that gets them. For embeddings the features are the outputs."""

    def __init__(self, output: Output) -> None:
        self.reader = FeatureReader(output)
        self.output = output

    def __call__(self, student: Tensor, teacher: Tensor, share: Share) -> Tensor:
        if self.output == Output.EMBEDDING:
            return embedding_loss(student, teacher)
        return feature_loss(student, teacher, share)


@dataclass(frozen=True)
class KdObjective:
    """KD without a loss between representations."""

    output_loss: OutputLoss
    names: Sequence[str] = ("kd_loss",)
    watched: str | None = "loss"
    needs: Needs = OUTPUT

    def __call__(self, taught: Taught, student: SectionedNetwork, batch: Batch) -> Losses:
        kd = self.output_loss(student.run(*batch.inputs), taught.output, batch.labels)
        return Losses(kd, {"kd_loss": kd})


@dataclass(frozen=True)
class FeatureObjective:
    """`u·KD + w·F` with F the loss between features; u = 0 is feature mimicking."""

    feature_loss: FeatureLoss
    feature_weight: float = 1.0
    output_loss: OutputLoss | None = None
    """None: u is 0, otherwise 1."""
    watched: str | None = "loss"

    @property
    def names(self) -> Sequence[str]:
        return ["feature_loss", *(["kd_loss"] if self.output_loss is not None else [])]

    @property
    def needs(self) -> Needs:
        return Needs(output=self.output_loss is not None, features=self.feature_loss.reader)

    def __call__(self, taught: Taught, student: SectionedNetwork, batch: Batch) -> Losses:
        made, own = self.feature_loss.reader.run(student, *batch.inputs)
        parts = {"feature_loss": self.feature_loss(own, taught.features, batch.share)}
        total = self.feature_weight * parts["feature_loss"]
        if self.output_loss is not None:
            parts["kd_loss"] = self.output_loss(made, taught.output, batch.labels)
            total = total + parts["kd_loss"]
        return Losses(total, parts)


@dataclass(frozen=True)
class AttentionObjective:
    """`KD + w/2 · Σ_n AT(S_n, T_n)` over the sections (Zagoruyko and Komodakis, ICLR 2017, equation 2)."""

    output_loss: OutputLoss
    weight: float
    names: Sequence[str] = ("kd_loss", "attention_loss")
    watched: str | None = "loss"
    needs: Needs = TRACE

    def __call__(self, taught: Taught, student: SectionedNetwork, batch: Batch) -> Losses:
        made = student.trace(*batch.inputs)
        kd = self.output_loss(made.output, taught.output, batch.labels)
        pairs = zip(made.outputs, taught.trace.outputs, strict=True)
        attention = total_of([attention_loss(own, wanted) for own, wanted in pairs])
        return Losses(kd + self.weight / 2 * attention, {"kd_loss": kd, "attention_loss": attention})


class LitObjective:
    """`β·KD + (1-β)·IR` with `IR = Σ_n ℓ(T_n(x), S_n(·))` (Koratana et al., ICML 2019, section 3.2), and with a
    `feature_weight` w also `w·F`, the loss between features.

    On the IR path, `feed` chooses the input of each section of the student: the teacher's representation, or the output
    of the student's previous section on this path. If the KD path has already run the section on the same tensor, that
    output is used again. The KD path, which the features are read on too, updates the student's BatchNorm statistics.
    The IR path leaves them as they are, unless it is the only path.
    """

    def __init__(
        self,
        *,
        output_loss: OutputLoss,
        beta: float,
        measure: Measure,
        sections: int,
        frozen: Sequence[Part],
        feed: Feed = Feed.TEACHER,
        feed_until: float = 0.8,
        noise: float = 0.0,
        feature_weight: float = 0.0,
        relative: bool = False,
    ) -> None:
        """`measure` is the loss ℓ between two representations, `relative` to that of the teacher's mean."""
        self.output_loss, self.beta, self.noise = output_loss, beta, noise
        self.measure, self.relative = measure, relative
        self.feature_weight, self.feature_loss = feature_weight, FeatureLoss(output_loss.output)
        self.feed, self.feed_until = feed, feed_until
        self.stem_is_frozen = Part.STEM in frozen
        self.ir_names = [f"ir_loss_{n}" for n in range(1, sections + 1)] if beta < 1 else []
        own = [*(["kd_loss"] if beta > 0 else []), *(["feature_loss"] if feature_weight > 0 else [])]
        self.names = [*own, *self.ir_names]
        self.watched = self._watched()
        self.needs = self._needs()

    def __call__(self, taught: Taught, student: SectionedNetwork, batch: Batch) -> Losses:
        traced, own = self._trace(student, batch) if self.beta > 0 or self.feature_weight > 0 else (None, None)
        terms, parts = [], {}
        if traced is not None and self.beta > 0:
            parts["kd_loss"] = self.output_loss(traced.output, taught.output, batch.labels)
            terms.append(self.beta * parts["kd_loss"])
        if own is not None:
            parts["feature_loss"] = self.feature_loss(own, taught.features, batch.share)
            terms.append(self.feature_weight * parts["feature_loss"])
        if self.beta < 1:
            feeds = draw_feeds(self.feed, len(self.ir_names), batch.progress, self.feed_until, batch.generator)
            section_by_section = taught.trace.is_chain or all(feeds)
            ir_losses = self._ir_by_section if section_by_section else self._ir_of_whole_pass
            ir = ir_losses(taught.trace, student, traced, feeds, batch)
            parts |= dict(zip(self.ir_names, ir, strict=True))
            terms.append((1 - self.beta) * total_of(ir))
        return Losses(total_of(terms), parts)

    def _trace(self, network: SectionedNetwork, batch: Batch) -> tuple[Trace, Tensor | None]:
        """The features are None where they have no weight."""
        if self.feature_weight == 0:
            return network.trace(*batch.inputs), None
        return self.feature_loss.reader.trace(network, *batch.inputs)

    def _needs(self) -> Needs:
        whole_pass = self.beta > 0 or self.feature_weight > 0
        # There the first section's output is taken from the whole pass.
        shares_first = whole_pass and self.stem_is_frozen and self.noise == 0
        fed = self.beta < 1 and self.feed != Feed.STUDENT
        return Needs(
            output=self.beta > 0,
            trace=self.beta < 1,
            inputs=fed,
            first_input=fed and not shares_first,
            features=self.feature_loss.reader if self.feature_weight > 0 else None,
        )

    def _watched(self) -> str | None:
        """With a scheduled feed the IR losses rise as the student's errors pass from section to section."""
        if self.feed != Feed.SCHEDULED or self.beta == 1:
            return "loss"
        if self.beta > 0:
            return "kd_loss"
        return "feature_loss" if self.feature_weight > 0 else None

    def _ir_by_section(
        self, taught: Trace, student: SectionedNetwork, traced: Trace | None, feeds: list[bool], batch: Batch
    ) -> list[Tensor]:
        losses = []
        made: Tensor | None = None
        # Whether the next section's input is the same as on the KD path.
        shared = traced is not None and (self.stem_is_frozen or not feeds[0])
        for n, section in enumerate(student.sections):
            if feeds[n]:
                given = _noisy(taught.inputs[n], self.noise, batch)
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
            losses.append(self._ir_loss(made, taught.outputs[n], batch))
        return losses

    def _ir_of_whole_pass(
        self, taught: Trace, student: SectionedNetwork, traced: Trace | None, feeds: list[bool], batch: Batch
    ) -> list[Tensor]:
        """The IR losses for layers between sections: the student's representations pass through these layers."""
        if traced is not None and not any(feeds):
            outputs = traced.outputs
        else:
            fed = [
                _noisy(given, self.noise, batch) if feed else None
                for given, feed in zip(taught.inputs, feeds, strict=True)
            ]
            with untracked_statistics(student.network) if traced is not None else nullcontext():
                outputs = student.outputs_fed(fed, *batch.inputs)
        return [self._ir_loss(made, wanted, batch) for made, wanted in zip(outputs, taught.outputs, strict=True)]

    def _ir_loss(self, made: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
        if self.relative:
            return relative_to_mean(self.measure, made, wanted, batch.share)
        return self.measure(made, wanted)


def draw_feeds(feed: Feed, sections: int, progress: float, until: float, generator: torch.Generator) -> list[bool]:
    """For each section: whether it is fed the teacher's representation. With the scheduled feed, the probability is
    `1 - progress / until`."""
    if feed == Feed.SCHEDULED:
        return [bool(draw < 1 - progress / until) for draw in torch.rand(sections, generator=generator).tolist()]
    return [feed == Feed.TEACHER] * sections


def _noisy(representation: Tensor, deviation: float, batch: Batch) -> Tensor:
    if deviation == 0:
        return representation

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, *representation.shape[1:], generator=batch.generator, dtype=torch.float32)

    noise = batch.share.rows_of(draw, len(representation))
    return representation + deviation * noise.to(representation.device, representation.dtype)


def objective_of(spec: Hyperparameters, phase: Phase, sections: int) -> Objective:
    """The objective of a classifier's student in a phase."""
    if spec.method == Method.SCRATCH:
        return LabelObjective()
    output_loss = OutputLoss(spec.alpha, spec.tau, spec.output)
    if spec.method == Method.AT:
        return AttentionObjective(output_loss, spec.attention_weight)
    if spec.method == Method.MIMIC:
        return FeatureObjective(FeatureLoss(spec.output))
    if spec.method.uses_representations and phase == Phase.LIT:
        return LitObjective(
            output_loss=output_loss,
            beta=spec.beta,
            measure=IR_LOSSES[spec.ir_loss],
            relative=spec.ir_relative,
            sections=sections,
            frozen=[Part(part) for part in spec.schedule.lit.frozen or []],
            feed=spec.feed,
            feed_until=spec.feed_until,
            noise=spec.noise,
            feature_weight=spec.feature_weight,
        )
    if spec.method.uses_representations and spec.feature_weight > 0:
        return FeatureObjective(FeatureLoss(spec.output), spec.feature_weight, output_loss)
    return KdObjective(output_loss)
