"""Presets: values for the fields that a request does not set, by family.

A preset is a partial request. The request's own values always win.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from lit_spec.requests.training import Method

Values = Mapping[str, Any]


class Preset(StrEnum):
    PAPER = "paper"
    """The paper's hyperparameters for the family; sections are fed the teacher's representations."""
    QUICK = "quick"
    """Few epochs, for a first look: minutes instead of hours."""
    FEW = "few"
    """50 to 2,000 samples, labelled or not: IR losses and feature mimicking at learning rates that keep what is
    pretrained, BatchNorm as it is, and a race of methods and rates before the training."""


def preset_values(preset: Preset | None, family: str) -> Values:
    """The preset's values for a family; None: the family's defaults. Raises KeyError if the family lacks the preset."""
    return PRESETS[family][preset]


def with_rates(values: Values, asked: Values, *, batch_norm: bool) -> Values:
    """The values; for a network without BatchNorm with Adam and learning rates for it.

    With SGD's rates large transformers diverge. If the request names an optimizer or a rate, or the values
    name an optimizer, they stay.
    """
    own = asked.get("schedule", {})
    rates = [phase for phase in ("lit", "fine_tune") if "learning_rate" in own.get(phase, {})]
    chosen = rates or "optimizer" in own or "optimizer" in values.get("schedule", {})
    return values if batch_norm or chosen else merged(values, _WITHOUT_BATCH_NORM)


def suited(values: Values, method: Method, *, inherits: bool) -> Values:
    """The values without those that are of no use to the method, or to a student that does not inherit the teacher's
    blocks, whose BatchNorm statistics are then no one's."""
    taught, schedule = method != Method.SCRATCH, dict(values.get("schedule", {}))
    if not inherits:
        schedule.pop("batch_norm", None)
    if not taught:
        phases = ("lit", "fine_tune")
        schedule = {n: _without(v, "frozen") if n in phases else v for n, v in schedule.items()}
    own = _without(values, "schedule", *([] if method.races else ["race"]), *([] if taught else ["mixing"]))
    return {**own, "schedule": schedule} if schedule else own


def _without(values: Values, *names: str) -> Values:
    return {name: value for name, value in values.items() if name not in names}


def merged(base: Values, over: Values) -> dict[str, Any]:
    """`base` with the values of `over`, merged deeply. An object of another `kind` replaces the base's object."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and _same_kind(below, value):
            result[name] = merged(below, value)
        else:
            result[name] = value
    return result


def _same_kind(below: Values, over: Values) -> bool:
    return bool(over.get("kind", below.get("kind")) == below.get("kind"))


_ONE_CYCLE = {"kind": "one_cycle", "warmup": 0.2}

_PLAIN: Values = {}

_WITHOUT_BATCH_NORM: Values = {
    "schedule": {
        "optimizer": "adam",
        "weight_decay": 0.0,
        "lit": {"learning_rate": 1e-3},
        "fine_tune": {"learning_rate": 1e-4},
    }
}

_FEW: Values = {
    "alpha": 0.0,
    "beta": 0.0,
    "tau": 4.0,
    # One pass of the student, in which each section sees the errors of those before it, and the features that follow
    # from them: docs/evidence.md compares it with the teacher's feed.
    "feed": "student",
    "ir_relative": True,
    "feature_weight": 1.0,
    "mixing": 0.5,
    "race": True,
    "schedule": {
        "steps_per_epoch": 20,
        "lit": {"epochs": 20, "learning_rate": 2e-4, "schedule": _ONE_CYCLE, "frozen": ["stem"]},
        "fine_tune": {"epochs": 0, "learning_rate": 2e-5, "frozen": ["stem"]},
        "batch_size": 32,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        # What is pretrained has seen far more data than these samples, so its statistics stay.
        "batch_norm": "frozen",
        "dropout": False,
    },
}

_FEW_TEXTS: Values = {**_FEW, "mixing": 0.0}
"""Characters can't be mixed."""

_QUICK: Values = {"schedule": {"lit": {"epochs": 5}, "fine_tune": {"epochs": 1}}}

_PAPER_CIFAR: Values = {
    "feed": "teacher",
    "alpha": 0.95,
    "beta": 0.75,
    "tau": 6.0,
    "student": {"init": "random"},
    "augmentation": {"shift": 4, "flip": True},
    "schedule": {
        "batch_size": 32,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "lit": {
            "epochs": 175,
            "learning_rate": 0.1,
            "schedule": {"kind": "milestones", "milestones": [100], "gamma": 0.1},
        },
        "fine_tune": {
            "epochs": 125,
            "learning_rate": 0.01,
            "schedule": {"kind": "milestones", "milestones": [55], "gamma": 0.1},
        },
    },
}

_HALVED = {"kind": "milestones", "milestones": [3, 6, 9, 12], "gamma": 0.5}

_PAPER_VDCNN: Values = {
    "feed": "teacher",
    "alpha": 0.95,
    "beta": 0.05,
    "tau": 6.0,
    "student": {"init": "random"},
    "schedule": {
        "batch_size": 128,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "lit": {"epochs": 15, "learning_rate": 0.01, "schedule": _HALVED},
        "fine_tune": {"epochs": 10, "learning_rate": 0.001, "schedule": _HALVED},
    },
}

_ADAM = {"optimizer": "adam", "adam_betas": [0.5, 0.999], "weight_decay": 0.0, "batch_size": 16}
_HALF_LINEAR = {"kind": "linear", "start": 0.5}


def _stargan(epochs: int, fine_tune_epochs: int, steps: int, learning_rate: float) -> Values:
    return {
        "beta": 0.0,
        "feed": "teacher",  # there is one section, and the frozen stem makes its input the teacher's anyway
        "schedule": {
            **_ADAM,
            "steps_per_epoch": steps,
            "lit": {"epochs": epochs, "learning_rate": learning_rate, "schedule": _HALF_LINEAR},
            "fine_tune": {"epochs": fine_tune_epochs, "learning_rate": 1e-4, "schedule": _HALF_LINEAR},
        },
    }


ANY_NETWORK: Mapping[Preset | None, Values] = {
    None: _PLAIN,
    Preset.PAPER: _PAPER_CIFAR,
    Preset.QUICK: _QUICK,
    Preset.FEW: _FEW,
}
"""For a network of no family: the values of the CIFAR ResNets, on which the method was published."""


_PAPER_STARGAN = {**_stargan(200, 200, 1000, 1e-4), "student": {"init": "random"}, "augmentation": {"flip": True}}

_LIBRARY: Mapping[Preset | None, Values] = {None: _PLAIN, Preset.QUICK: _QUICK, Preset.FEW: _FEW}

PRESETS: Mapping[str, Mapping[Preset | None, Values]] = {
    "resnet_cifar": ANY_NETWORK,
    "resnext_cifar": ANY_NETWORK,
    "torchvision": _LIBRARY,
    "timm": _LIBRARY,
    "vdcnn": {None: _PLAIN, Preset.PAPER: _PAPER_VDCNN, Preset.QUICK: _QUICK, Preset.FEW: _FEW_TEXTS},
    "stargan": {
        None: _stargan(100, 100, 500, 3e-3),
        Preset.PAPER: _PAPER_STARGAN,
        Preset.QUICK: _stargan(10, 4, 30, 1e-2),
    },
}
"""By family. The entry None has the family's defaults where they differ from the specification's."""
