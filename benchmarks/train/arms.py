"""The ways to take a training step that are compared. A new one is a member of `Arm` and its case in `step_of`."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import nn

from benchmarks.train.cached import as_few, cached_step
from benchmarks.train.naive import Step, label_step, lit_step
from benchmarks.train.workloads import Networks, Workload
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.updaters import DistillationUpdater, distillation_updater
from lit_spec import Feed, Hyperparameters, Method, Optimizer, Part, Phase, Precision

RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
ALPHA, TAU = 0.5, 4.0


class Arm(StrEnum):
    NAIVE = "naive"
    EXACT = "exact"
    BF16_TEACHER = "bf16 teacher"
    CACHED = "cached"
    FEW_CACHED = "few cached"
    """With the losses of the preset `few`, which have β = 0."""
    FLOOR = "floor"

    def suits(self, loss: Loss) -> bool:
        return self != Arm.FEW_CACHED or loss == Loss.BETA_0


class Loss(StrEnum):
    LIT = "lit"
    BETA_0 = "beta 0"
    KD = "kd"

    @property
    def beta(self) -> float:
        return 0.0 if self == Loss.BETA_0 else 0.5

    @property
    def frozen(self) -> list[Part]:
        return [] if self == Loss.KD else [Part.STEM, Part.HEAD]


def step_of(arm: Arm, workload: Workload, loss: Loss, networks: Networks, precision: Precision) -> Step:
    """`precision` is that of the training: of all arms."""
    match arm:
        case Arm.NAIVE:
            return _in_precision(_naive(workload, loss, networks), networks, precision)
        case Arm.FLOOR:
            student = networks.student
            student.train([])
            optimizer = _optimizer(student.network, workload)
            step = label_step(student.network, optimizer, networks.inputs, networks.labels)
            return _in_precision(step, networks, precision)
        case Arm.EXACT:
            return _engine(_hyperparameters(workload, loss, precision), networks)
        case Arm.BF16_TEACHER:
            asked = _hyperparameters(workload, loss, precision)
            return _engine(asked.model_copy(update={"teacher_precision": Precision.BFLOAT16}), networks)
        case Arm.CACHED:
            return cached_step(_hyperparameters(workload, loss, precision), networks, RATE)
        case Arm.FEW_CACHED:
            return cached_step(as_few(_hyperparameters(workload, loss, precision)), networks, RATE)


def _naive(workload: Workload, loss: Loss, networks: Networks) -> Step:
    teacher, student = networks.teacher, networks.student
    student.train(loss.frozen)
    return lit_step(
        teacher.network,
        student.network,
        _blocks(teacher),
        _blocks(student),
        _optimizer(student.network, workload),
        networks.inputs,
        networks.labels,
        alpha=ALPHA,
        beta=loss.beta,
        tau=TAU,
        ir=loss != Loss.KD,
    )


def _engine(asked: Hyperparameters, networks: Networks) -> Step:
    """This project's, as a job runs it."""
    updater = updater_of(asked, networks)
    batch = Batch((networks.inputs,), networks.labels)

    def step() -> None:
        updater.step(batch, RATE)

    return step


def updater_of(asked: Hyperparameters, networks: Networks) -> DistillationUpdater:
    return distillation_updater(asked, Phase.LIT, networks.teacher, networks.student, {})


def _hyperparameters(workload: Workload, loss: Loss, precision: Precision) -> Hyperparameters:
    default = Hyperparameters()
    lit = default.schedule.lit.model_copy(update={"frozen": loss.frozen})
    schedule = default.schedule.model_copy(
        update={
            "lit": lit,
            "optimizer": workload.optimizer,
            "momentum": MOMENTUM,
            "nesterov": False,
            "weight_decay": WEIGHT_DECAY,
            "batch_size": workload.batch,
        }
    )
    return default.model_copy(
        update={
            "method": Method.KD if loss == Loss.KD else Method.LIT,
            "alpha": ALPHA,
            "beta": loss.beta,
            "tau": TAU,
            "feed": Feed.TEACHER,
            "schedule": schedule,
            "precision": precision,
        }
    )


def _optimizer(network: nn.Module, workload: Workload) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if workload.optimizer == Optimizer.ADAM:
        return torch.optim.Adam(parameters, lr=RATE, weight_decay=WEIGHT_DECAY)
    return torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def _blocks(network: SectionedNetwork) -> list[list[nn.Module]]:
    return [list(section) for section in network.sections]


def _in_precision(step: Step, networks: Networks, precision: Precision) -> Step:
    def under_autocast() -> None:
        with torch.autocast(networks.inputs.device.type, dtype=torch.bfloat16):
            step()

    return under_autocast if precision == Precision.BFLOAT16 else step
