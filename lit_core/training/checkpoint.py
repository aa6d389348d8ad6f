"""A training's checkpoint: everything needed to go on as if nothing had happened.

The order of samples, the augmentation and the learning rate are functions of (seed, phase, epoch, step), so the
position stands for them; weights, the phase's program, sums and the random state of torch are stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_core.networks.block_selection import Selection
from lit_spec import Phase

FORMAT = 5

State = dict[str, Tensor]


@dataclass(frozen=True)
class Position:
    """The next step to take: `step` of `epoch` (both from 0) of `phase`."""

    phase: Phase
    epoch: int
    step: int


@dataclass(frozen=True)
class Best:
    """The epoch (from 1) that the validation split selects so far. 0: as a step pruned it."""

    phase: Phase
    epoch: int
    score: float
    """Larger is better; what it is, the task says."""
    state: State


@dataclass
class Checkpoint:
    position: Position
    student: State
    program: dict[str, Any]
    """What the phase's program needs to go on: its optimizer's state, for one."""
    sums: Tensor
    """Losses of the epoch under way, times samples."""
    seen: int
    """Samples of the epoch under way."""
    seconds: float
    """Time spent in the epoch under way."""
    best: Best | None
    epochs: list[dict[str, Any]]
    environment: dict[str, str]
    selection: Selection
    """Which blocks the student has: chosen once, since another device might choose others."""
    done: list[Best] = field(default_factory=list)
    """What was selected before: the student to be pruned, and each that was pruned."""
    resumes: list[dict[str, Any]] = field(default_factory=list)
    random: Tensor | None = None
    """torch's random state; None: as it is when the checkpoint is saved."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Atomically: a reader finds the old one or the new one, also after a power cut."""
    data = {
        "format": FORMAT,
        "position": [checkpoint.position.phase.value, checkpoint.position.epoch, checkpoint.position.step],
        "student": checkpoint.student,
        "program": checkpoint.program,
        "sums": checkpoint.sums,
        "seen": checkpoint.seen,
        "seconds": checkpoint.seconds,
        "best": checkpoint.best and _as_list(checkpoint.best),
        "done": [_as_list(best) for best in checkpoint.done],
        "epochs": checkpoint.epochs,
        "environment": checkpoint.environment,
        "selection": [checkpoint.selection.kept, checkpoint.selection.importance],
        "resumes": checkpoint.resumes,
        "random": torch.get_rng_state() if checkpoint.random is None else checkpoint.random,
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
    data = torch.load(path, map_location="cpu", weights_only=True)
    if data["format"] != FORMAT:
        raise ValueError(f"checkpoint format {data['format']}, but this version reads {FORMAT}")
    phase, epoch, step = data["position"]
    return Checkpoint(
        position=Position(Phase(phase), epoch, step),
        student=data["student"],
        program=data["program"],
        sums=data["sums"],
        seen=data["seen"],
        seconds=data["seconds"],
        best=data["best"] and _best(data["best"]),
        done=[_best(best) for best in data["done"]],
        epochs=data["epochs"],
        environment=data["environment"],
        selection=Selection(*data["selection"]),
        resumes=data["resumes"],
        random=data["random"],
    )


def _as_list(best: Best) -> list[Any]:
    return [best.phase.value, best.epoch, best.score, best.state]


def _best(data: list[Any]) -> Best:
    phase, epoch, score, state = data
    return Best(Phase(phase), epoch, score, state)
