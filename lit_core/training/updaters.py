"""Updaters: they change the student in one step. The training loop calls them; the methods implement them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lit_core.networks.memory_format import in_channels_last, takes_channels_last
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import WHOLE, Batch, Share
from lit_core.training.caching.teacher import TeacherCache
from lit_core.training.objectives import Objective, objective_of
from lit_core.training.pruning import apply_masks
from lit_core.training.taught import LiveTeacher, Teacher
from lit_spec import Hyperparameters, Optimizer, Part, Phase, PhaseSchedule, Precision, Schedule, SpecError


class Updater(Protocol):
    """Changes the student step by step in one phase. `state` has everything that it needs to continue after a break."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the losses that `step` returns; the minimised one (`loss`) comes first."""

    @property
    def watched(self) -> str | None:
        """The loss that a stable training does not raise far above that of its first step. None if each may rise by
        design."""

    def begin_epoch(self) -> None:
        """Put the networks into their training modes."""

    def step(self, batch: Batch, learning_rate: float) -> Tensor:
        """Take one optimiser step. Returns the losses (len(names),): means over the whole batch, float64, on the
        device."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class ImageFormat:
    """Puts the images of batches into the memory format that suits the networks, which the first batch decides."""

    def __init__(self, networks: Sequence[SectionedNetwork]) -> None:
        self.networks = networks
        self._channels_last: bool | None = None

    def __call__(self, batch: Batch) -> Batch:
        if self._channels_last is None:
            self._channels_last = all(takes_channels_last(network, batch.inputs) for network in self.networks)
        return replace(batch, inputs=in_channels_last(batch.inputs)) if self._channels_last else batch


class DistillationUpdater:
    """Trains the student to follow the teacher, with one objective and one optimizer."""

    def __init__(
        self,
        objective: Objective,
        teacher: Teacher,
        student: SectionedNetwork,
        schedule: Schedule,
        *,
        frozen: Sequence[Part],
        precision: Precision,
        masks: Mapping[str, Tensor],
        image_format: ImageFormat | None = None,
    ) -> None:
        """`image_format` None: batches stay as they are."""
        self.image_format = image_format
        self.names: Sequence[str] = ("loss", *objective.names)
        self.batch_norm, self.dropout, self.gradient_clip = (
            schedule.batch_norm,
            schedule.dropout,
            schedule.gradient_clip,
        )
        self.watched = objective.watched
        self.objective, self.teacher, self.student = objective, teacher, student
        self.frozen, self.precision, self.masks = list(frozen), precision, dict(masks)
        self.begin_epoch()
        self.optimizer = make_optimizer(student.network, schedule)

    def begin_epoch(self) -> None:
        self.student.train(self.frozen, batch_norm=self.batch_norm, dropout=self.dropout)

    def step(self, batch: Batch, learning_rate: float) -> Tensor:
        half = self.precision == Precision.BFLOAT16
        autocast = torch.autocast(batch.inputs[0].device.type, dtype=torch.bfloat16, enabled=half)
        with autocast, batch.share.whole_statistics():
            if self.image_format is not None:
                batch = self.image_format(batch)
            losses = self.objective(self.teacher(batch), self.student, batch)
        minimise(losses.total, self.optimizer, learning_rate, self.gradient_clip, batch.share)
        if self.masks:
            apply_masks(self.student.network, self.masks)
        row = [losses.total, *(losses.parts[name] for name in self.objective.names)]
        return batch.share.mean(torch.stack([loss.detach().double() for loss in row]))

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def distillation_updater(
    spec: Hyperparameters,
    phase: Phase,
    teacher: SectionedNetwork,
    student: SectionedNetwork,
    masks: Mapping[str, Tensor],
    cache: TeacherCache | None = None,
) -> DistillationUpdater:
    """The updater that the specification asks for in this phase."""
    objective = objective_of(spec, phase, len(teacher.sections))
    live = LiveTeacher(teacher, objective.needs, spec.teacher_precision)
    return DistillationUpdater(
        objective,
        live if cache is None else cache.around(live, spec.schedule.batch_size),
        student,
        spec.schedule,
        frozen=frozen_parts(spec.schedule.of(phase)),
        precision=spec.precision,
        masks=masks,
        image_format=ImageFormat([teacher, student]),
    )


def frozen_parts(schedule: PhaseSchedule) -> list[Part]:
    return [Part(part) for part in schedule.frozen or []]


def make_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """An optimizer for the parameters that have gradients now. Every step sets its learning rate.

    Raises SpecError if no parameter has gradients.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise SpecError(
            "schedule",
            "leaves no parameter of the student to be trained in a phase, because each is in a frozen part or has "
            "requires_grad=False in the model: freeze less, or call model.requires_grad_(True)",
        )
    if schedule.optimizer == Optimizer.ADAM:
        first, second = schedule.adam_betas
        return torch.optim.Adam(parameters, lr=0.0, betas=(first, second), weight_decay=schedule.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=0.0,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov,
        weight_decay=schedule.weight_decay,
    )


def minimise(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    gradient_clip: float | None = None,
    share: Share = WHOLE,
) -> None:
    """Take one optimiser step with this learning rate. `loss` is the mean over this share of the batch.

    Raises SpecError if nothing that is trained changes the loss.
    """
    if not loss.requires_grad:
        raise SpecError(
            "method",
            "has a loss that no trained parameter of the student changes, because its blocks are frozen or have "
            "requires_grad=False in the model: use method kd with a head that is trained, or call "
            "model.requires_grad_(True)",
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    share.backward(loss, parameters)
    if gradient_clip is not None:
        nn.utils.clip_grad_norm_(parameters, gradient_clip)
    optimizer.step()
