"""How each arm makes its student of a teacher. All calls of `lit_core.compress` and PRACTISE are here."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import nn

from benchmarks.real.data import Batches, Data, Draw, Inputs
from benchmarks.real.experiments import ADAPTOR_STEPS, Arm, Maker, Patch
from benchmarks.real.networks import Network, Output
from lit_core.compression import compress
from lit_core.networks.discovery import find_layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_spec import merged
from lit_spec.requests.presets import ANY_NETWORK, Preset

EPOCHS = 20
"""Of an arm whose schedule is not a preset's."""
MEASURED_BATCHES = 4
"""What PRACTISE measures the features on."""

Kept = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Asked:
    """What an arm is to do."""

    depth: int
    draw: Draw
    kept: Kept | None = None
    """The blocks that `default` kept, for an arm that follows it."""
    rate: float | None = None
    """Of a tuned arm."""


@dataclass(frozen=True)
class Made:
    student: nn.Module
    kept: Kept
    notes: list[str]


def make(arm: Arm, network: Network, teacher: nn.Module, data: Data, asked: Asked) -> Made:
    batches = data.training(asked.draw)
    match arm.maker:
        case Maker.COMPRESS:
            return _compressed(arm, network, teacher, batches, asked)
        case Maker.PRACTISE:
            return _practised(network, teacher, data, asked)
        case Maker.NOBODY:
            kept = asked.kept or ()
            return Made(shortened(_sectioned(network, teacher, batches), kept).network.eval(), kept, [])


def arguments(arm: Arm, network: Network, asked: Asked) -> dict[str, Any]:
    """All that makes an arm what it is: of `lit_core.compress` without model and data, or PRACTISE's settings."""
    blocks: Patch = {"depth": asked.depth, "select": arm.select} if asked.kept is None else {"kept": asked.kept}
    if arm.maker == Maker.NOBODY:
        return dict(blocks)
    if arm.maker == Maker.PRACTISE:
        return {**blocks, "iterations": ADAPTOR_STEPS, "fine_tuning_rate": asked.rate}
    output: Patch = {"output": "embedding"} if network.output == Output.EMBEDDING else {}
    given = {**blocks, **output, "seed": asked.draw.seed, "sections": network.sections or None}
    return merged({"schedule": _schedule(arm, asked)}, merged(arm.hyperparameters, given))


def _schedule(arm: Arm, asked: Asked) -> dict[str, Any]:
    """The phases, so that they take the experiment's steps together."""
    steps = asked.draw.steps
    if not arm.phases:
        own = ANY_NETWORK[Preset.FEW]["schedule"]
        return {"steps_per_epoch": max(1, steps // (own["lit"]["epochs"] + own["fine_tune"]["epochs"]))}
    epochs = min(EPOCHS, steps)
    schedule: dict[str, Any] = {"fine_tune": {"epochs": 0}, "steps_per_epoch": steps // epochs}
    for name, phase in arm.phases.items():
        schedule[name] = {
            "epochs": round(phase.share * epochs),
            "learning_rate": asked.rate,
            "frozen": list(phase.frozen),
            "schedule": {"kind": "one_cycle", "warmup": 0.1},
        }
    return schedule


def _compressed(arm: Arm, network: Network, teacher: nn.Module, batches: Batches, asked: Asked) -> Made:
    made = compress(teacher, batches, **arguments(arm, network, asked))
    return Made(made.student, made.report["selection"]["kept"], made.report["notes"])


def _practised(network: Network, teacher: nn.Module, data: Data, asked: Asked) -> Made:
    from benchmarks.practise import Recipe, mimicking_student, practise

    if asked.rate is None:
        raise ValueError("PRACTISE needs a learning rate")
    draw = asked.draw
    # PRACTISE freezes the teacher that it is given.
    sectioned = _sectioned(network, copy.deepcopy(teacher), data.training(draw))
    training = _InputsOnly(data.training(draw))
    recipe = Recipe(
        iterations=min(ADAPTOR_STEPS, draw.steps),
        fine_tuning_iterations=draw.steps,
        fine_tuning_rate=asked.rate,
        training_mode=False,  # as in all arms
        seed=draw.seed,
        positions=(lambda inputs: inputs[1]) if network.output == Output.EMBEDDING else None,
    )
    if asked.kept is not None:
        return Made(mimicking_student(sectioned, asked.kept, training, recipe), asked.kept, [])
    drop = sum(len(section) for section in sectioned.sections) - asked.depth
    plain = data.training(replace(draw, augmented=False))
    measured = [inputs for (inputs,) in islice(plain, MEASURED_BATCHES)]
    made = practise(sectioned, drop, training, measured, recipe)
    return Made(made.student, made.kept, [])


@dataclass(frozen=True)
class _InputsOnly:
    """Batches as PRACTISE takes them."""

    batches: Batches

    def __iter__(self) -> Any:
        return (inputs for (inputs,) in self.batches)


def _sectioned(network: Network, teacher: nn.Module, batches: Batches) -> SectionedNetwork:
    inputs: Inputs = tuple(x[:2] for x in next(iter(batches))[0])
    return SectionedNetwork(teacher, find_layout(teacher, inputs, network.sections))
