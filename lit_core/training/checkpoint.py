"""A training's checkpoint: everything that is needed to continue as if the training had never stopped.

The order of samples, all random numbers and the learning rate are functions of (seed, phase, epoch, step), so only the
position is stored for them. Weights, the state of the phase's updater and sums are stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.block_selection import Selection
from lit_spec import Phase
from lit_spec.trainer.report import CachePlan, EpochReport, Race, Resume, Setback, TargetReport

FORMAT = 10
READABLE_FORMATS = (9, FORMAT)
"""Format 9 knows no cached teachers."""

State = dict[str, Tensor]


def copy_of_state(network: nn.Module) -> State:
    """A copy of the network's weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


@dataclass(frozen=True)
class TrainingPosition:
    """The next step to take: `step` of `epoch` (both from 0) of `phase`."""

    phase: Phase
    epoch: int
    step: int


@dataclass(frozen=True)
class BestEpoch:
    """The epoch (from 1) that the validation split selects so far. Epoch 0 is the student before the first phase, or
    the pruned student before its fine-tuning."""

    phase: Phase
    epoch: int
    score: float
    """Larger is better; the task says which metric it is."""
    state: State


@dataclass(frozen=True)
class GoodState:
    """What an unstable training goes back to: the end of a phase's last good epoch, or its start."""

    position: TrainingPosition
    student: State
    updater: dict[str, Any]


@dataclass
class Checkpoint:
    position: TrainingPosition
    student: State
    updater: dict[str, Any]
    """What the phase's updater needs to continue, such as its optimizer's state."""
    loss_sums: Tensor
    """Losses of the current epoch, times samples."""
    samples_seen: int
    """Samples seen in the current epoch."""
    seconds: float
    """Time spent in the current epoch."""
    best: BestEpoch | None
    good: GoodState
    first_loss: float | None
    """The watched loss of the phase's first step; None before that step, and for updaters that have no such loss."""
    epochs: list[EpochReport]
    environment: dict[str, str]
    selection: Selection
    """Which blocks the student has: chosen once, because another device might choose others."""
    chosen_before: list[BestEpoch] = field(default_factory=list)
    """What was chosen before: the student to be pruned, then each pruned student."""
    resumes: list[Resume] = field(default_factory=list)
    setbacks: list[Setback] = field(default_factory=list)
    race: Race | None = None
    cache_plan: CachePlan | None = None
    """What was decided about the teacher's cache, which decides what samples look like."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically: a reader finds the old file or the new one, also after a power failure."""
    data = {
        "format": FORMAT,
        "position": _position_as_list(checkpoint.position),
        "student": checkpoint.student,
        "updater": checkpoint.updater,
        "loss_sums": checkpoint.loss_sums,
        "samples_seen": checkpoint.samples_seen,
        "seconds": checkpoint.seconds,
        "best": checkpoint.best and _as_list(checkpoint.best),
        "good": [_position_as_list(checkpoint.good.position), checkpoint.good.student, checkpoint.good.updater],
        "first_loss": checkpoint.first_loss,
        "chosen_before": [_as_list(best) for best in checkpoint.chosen_before],
        "epochs": [epoch.as_json() for epoch in checkpoint.epochs],
        "environment": checkpoint.environment,
        "selection": selection_as_dict(checkpoint.selection),
        "resumes": [resume.as_json() for resume in checkpoint.resumes],
        "setbacks": [setback.as_json() for setback in checkpoint.setbacks],
        "race": checkpoint.race and checkpoint.race.as_json(),
        "cache_plan": checkpoint.cache_plan and checkpoint.cache_plan.as_json(),
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(data, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises ValueError for another format."""
    return checkpoint_from(read_checkpoint(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What is stored, as `checkpoint_from` reads it."""
    data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return data


def checkpoint_from(data: dict[str, Any]) -> Checkpoint:
    """Raises ValueError for another format."""
    if data["format"] not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise ValueError(f"the checkpoint has format {data['format']}, but this version reads the formats {known}")
    plan = data.get("cache_plan")
    position, student, updater = data["good"]
    return Checkpoint(
        position=_position_from_list(data["position"]),
        student=data["student"],
        updater=data["updater"],
        loss_sums=data["loss_sums"],
        samples_seen=data["samples_seen"],
        seconds=data["seconds"],
        best=data["best"] and _from_list(data["best"]),
        good=GoodState(_position_from_list(position), student, updater),
        first_loss=data["first_loss"],
        chosen_before=[_from_list(best) for best in data["chosen_before"]],
        epochs=[EpochReport.model_validate(epoch) for epoch in data["epochs"]],
        environment=data["environment"],
        selection=selection_from_dict(data["selection"]),
        resumes=[Resume.model_validate(resume) for resume in data["resumes"]],
        setbacks=[Setback.model_validate(setback) for setback in data["setbacks"]],
        race=data["race"] and Race.model_validate(data["race"]),
        cache_plan=plan and CachePlan.model_validate(plan),
    )


def _position_as_list(position: TrainingPosition) -> list[Any]:
    return [position.phase.value, position.epoch, position.step]


def _position_from_list(data: list[Any]) -> TrainingPosition:
    phase, epoch, step = data
    return TrainingPosition(Phase(phase), epoch, step)


def selection_as_dict(selection: Selection) -> dict[str, Any]:
    return {
        "kept_blocks": selection.kept_blocks,
        "importance": selection.importance,
        "target": selection.target and selection.target.as_json(),
        "damages": selection.damages,
        "repaired": selection.repaired,
    }


def selection_from_dict(data: dict[str, Any]) -> Selection:
    target = data["target"]
    return Selection(**data | {"target": target and TargetReport.model_validate(target)})


def _as_list(best: BestEpoch) -> list[Any]:
    return [best.phase.value, best.epoch, best.score, best.state]


def _from_list(data: list[Any]) -> BestEpoch:
    phase, epoch, score, state = data
    return BestEpoch(Phase(phase), epoch, score, state)
