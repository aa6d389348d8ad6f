"""What the evidence compares: experiments, their arms, seeds and budgets. Data only.

An arm is a merge patch over its experiment's request. `tuned.json` holds the learning rates that `tune.py` chose for
each arm on the validation split, with other seeds than those of the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.data import COLOURS, HARD
from benchmarks.evidence.teachers import DISCRIMINATOR, LENGTH
from lit_spec import merged

TUNED = Path(__file__).with_name("tuned.json")
TUNING_SEEDS = (100, 101)
RATES, TWO_RATES = (0.01, 0.03, 0.1), (0.03, 0.1)
"""Of the first phase, fine-tuning has a tenth of it. What `tune.py` chooses from where an experiment has no others."""

Patch = Mapping[str, Any]

SEARCHED = "searched"
ARMS: Mapping[str, Patch] = {
    "lit": {"method": "lit", "feed": "teacher"},
    "lit-scheduled": {"method": "lit", "feed": "scheduled"},
    "kd": {"method": "kd"},
    "hint": {"method": "lit", "feed": "student"},
    "at": {"method": "at"},
    "scratch": {"method": "scratch"},
    "prune": {"method": "prune"},
    "lit-random": {"method": "lit", "feed": "teacher", "student": {"init": "random"}},
    "kd-random": {"method": "kd", "student": {"init": "random"}},
    "hint-random": {"method": "lit", "feed": "student", "student": {"init": "random"}},
    "lit-scheduled-random": {"method": "lit", "feed": "scheduled", "student": {"init": "random"}},
    # Ablations of lit.
    "beta-0": {"method": "lit", "feed": "teacher", "beta": 0.0},
    "beta-1": {"method": "lit", "feed": "teacher", "beta": 1.0},
    "no-fine-tuning": {"method": "lit", "feed": "teacher"},
    "long-fine-tuning": {"method": "lit", "feed": "teacher"},
    "free-ends": {"method": "lit", "feed": "teacher", "schedule": {"lit": {"frozen": []}}},
    # The preset for little data, which may race other methods where none is named.
    "few": {"preset": "few", "student": {"select": "recover"}},
    "few-even": {"preset": "few"},
    # Of generators.
    "ir-only": {"method": "lit", "schedule": {"fine_tune": {"epochs": 0}}},
    "ir-only-random": {"method": "lit", "schedule": {"fine_tune": {"epochs": 0}}, "student": {"init": "random"}},
    "adversarial": {"method": "lit"},
    # What a search study of the same job chooses, against what it would have been without.
    "default": {"method": "lit"},
    SEARCHED: {"method": "lit"},
}
EVERY = ("lit", "kd", "hint", "at", "lit-random", "kd-random", "hint-random", "scratch", "prune")


@dataclass(frozen=True)
class Experiment:
    name: str
    teacher: str
    """A file's name for `teachers.teacher_file`."""
    dataset: str
    """A name in `data.DATASETS`."""
    request: Patch
    """What all arms share, without teacher, data and seed."""
    arms: tuple[str, ...]
    seeds: int
    patches: Mapping[str, Patch] = field(default_factory=dict)
    """Changes of single arms."""
    discriminator: str | None = None
    """Likewise."""
    rates: tuple[float, ...] = RATES
    """What each arm's learning rate is chosen from; none: there is nothing to choose."""
    untuned: tuple[str, ...] = ()
    """Arms that are run as they come."""
    rates_of: str | None = None
    """The experiment whose rates are used, instead of tuning this one. An arm that it lacks has those of its `lit`."""

    def arm(self, name: str) -> dict[str, Any]:
        """The patch of one arm, its tuned learning rate included."""
        patch = merged(ARMS[name], self.patches.get(name, {}))
        if name in self.untuned:
            return patch
        found = tuned().get(self.rates_of or self.name, {})
        choice = found.get(name, found.get("lit") if self.rates_of else None)
        if choice is None:
            return patch
        return merged(patch, at_rate(choice) if isinstance(choice, float) else choice)


def at_rate(rate: float) -> Patch:
    return {"schedule": {"lit": {"learning_rate": rate}, "fine_tune": {"learning_rate": round(rate / 10, 6)}}}


def tuned() -> Mapping[str, Mapping[str, float | Patch]]:
    """By experiment and arm the learning rate, or a patch."""
    found: dict[str, dict[str, float | Patch]] = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    return found


def epochs(lit: int, fine_tune: int) -> Patch:
    return {"schedule": {"lit": {"epochs": lit}, "fine_tune": {"epochs": fine_tune}}}


def steps(total: int, evaluations: int = 20) -> Patch:
    """About 85 % in the first phase."""
    fine_tune = round(0.15 * evaluations)
    return _of(epochs(evaluations - fine_tune, fine_tune), {"schedule": {"steps_per_epoch": total // evaluations}})


def _of(*patches: Patch) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for patch in patches:
        result = merged(result, patch)
    return result


SHIFT = {"augmentation": {"shift": 1}}
HARDER = {"augmentation": HARD.model_dump(exclude_unset=True), "dataset": {"mean": [0.0], "std": [1.0]}}
THREE_EPOCHS = steps(330, 10)
"""3.02 passes over 3,500 images: whole epochs would not part them as the others are parted."""
TO_14, TO_9, TO_8 = ({"student": {"depth": depth, "select": "even"}} for depth in (14, 9, 8))
NO_LABELS = {"alpha": 0.0, "dataset": {"labels": False}}


ADAM = {"schedule": {"optimizer": "adam", "lit": {"learning_rate": 1e-3}, "fine_tune": {"learning_rate": 1e-4}}}
"""With SGD the teacher of texts learned nothing."""


def _few(samples: int) -> Patch:
    return {"dataset": {"train_samples": samples}}


def _unlabelled(samples: int) -> Experiment:
    return Experiment(
        name=f"mnist5k-unlabelled-{samples}",
        teacher="mnist5k",
        dataset="mnist5k",
        request=_of(SHIFT, TO_14, NO_LABELS, _few(samples)),
        arms=("few", "few-even", "kd", "hint"),
        seeds=5,
        patches={"kd": steps(400), "hint": steps(400)},
        untuned=("few", "few-even"),
        rates_of=None if samples == 100 else "mnist5k-unlabelled-100",
    )


def _hard_steps(total: int) -> Experiment:
    return Experiment(
        name=f"mnist5k-hard-steps-{total}",
        teacher="mnist5k-hard",
        dataset="mnist5k-hard",
        request=_of(HARDER, TO_14, steps(total)),
        arms=("lit", "lit-scheduled", "kd"),
        seeds=3,
        rates_of="mnist5k-hard",
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment("digits", "digits", "digits", _of(TO_14, epochs(10, 2)), EVERY, 5, rates_of="mnist5k-short"),
    Experiment("mnist5k-short", "mnist5k", "mnist5k", _of(SHIFT, TO_14, THREE_EPOCHS), EVERY, 5, rates=TWO_RATES),
    Experiment(
        "mnist5k-long", "mnist5k", "mnist5k", _of(SHIFT, TO_14, epochs(10, 2)), EVERY, 5, rates_of="mnist5k-short"
    ),
    Experiment(
        "mnist5k-hard",
        "mnist5k-hard",
        "mnist5k-hard",
        _of(HARDER, TO_14, steps(800)),
        ("lit", "lit-scheduled", "kd", "hint", "scratch"),
        5,
    ),
    Experiment(
        "mnist5k-hard-unlabelled-300",
        "mnist5k-hard",
        "mnist5k-hard",
        _of(HARDER, TO_14, NO_LABELS, _few(300), steps(800)),
        ("lit", "lit-scheduled", "kd", "hint"),
        5,
        rates_of="mnist5k-hard",
    ),
    *(_hard_steps(total) for total in (200, 400, 1600, 3200)),
    Experiment(
        "mnist5k-deep",
        "mnist5k",
        "mnist5k",
        _of(SHIFT, TO_8, THREE_EPOCHS),
        ("lit", "kd", "hint", "scratch"),
        5,
        rates_of="mnist5k-short",
    ),
    *(_unlabelled(samples) for samples in (100, 300, 1000)),
    Experiment(
        "ablations",
        "mnist5k",
        "mnist5k",
        _of(SHIFT, TO_14, THREE_EPOCHS),
        (
            "lit",
            "lit-scheduled",
            "hint",
            "lit-scheduled-random",
            "beta-0",
            "beta-1",
            "no-fine-tuning",
            "long-fine-tuning",
            "free-ends",
        ),
        5,
        patches={"no-fine-tuning": epochs(10, 0), "long-fine-tuning": epochs(7, 3)},
        rates_of="mnist5k-short",
    ),
    Experiment("digits-search", "digits", "digits", _of(TO_14, epochs(10, 2)), ("default", SEARCHED), 3),
    Experiment(
        "resnext",
        "resnext",
        "mnist5k",
        _of(SHIFT, {"student": {"depth": 11, "select": "even"}}, THREE_EPOCHS),
        ("lit", "kd", "scratch"),
        3,
        rates_of="mnist5k-short",
    ),
    Experiment(
        "amazon-vdcnn",
        "vdcnn",
        "amazon",
        _of(TO_9, {"dataset": {"length": LENGTH}, "augmentation": {"mask": 0.1}}, ADAM, epochs(5, 1)),
        ("lit", "kd", "hint", "scratch"),
        3,
        rates=(),
    ),
    Experiment(
        "stargan",
        "stargan",
        "coloured",
        {"preset": "quick", "student": {"blocks": [2]}, "dataset": {"class_order": list(COLOURS)}},
        ("ir-only", "ir-only-random", "adversarial"),
        3,
        discriminator=DISCRIMINATOR,
        rates=(),
    ),
)
