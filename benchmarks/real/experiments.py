"""What is compared on real networks: experiments, arms, rates and seeds. Data only.

`tuned.json` holds the learning rates that `tune.py` chose for each tuned arm, with seeds of its own and on a validation
part of the training samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Patch = Mapping[str, Any]

TUNED = Path(__file__).with_name("tuned.json")
TUNING_SEEDS = (100, 101)
ADAM_RATES, SGD_RATES = (3e-5, 1e-4, 3e-4, 1e-3), (1e-3, 5e-3, 2e-2)
"""PRACTISE is published with SGD and the last of these."""
TAU, HIGH_TAU = 4.0, 8.0
"""Of distillation. With 1 and 2 the students of EfficientNet-Lite0 were further from it."""
SEEDS = 3
STEPS, BATCH = 200, 32


class Maker(StrEnum):
    """What makes an arm's student."""

    COMPRESS = "compress"
    PRACTISE = "practise"
    NOBODY = "nobody"


@dataclass(frozen=True)
class Arm:
    maker: Maker
    meaning: str
    """For the page."""
    select: str | None = None
    """Of `lit_core.compress`; None: the arm keeps the blocks that `default` kept with the same seed."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Of `lit_core.compress`. The number of steps comes with the experiment."""
    phases: Mapping[str, Phase] = field(default_factory=dict)
    """Of an arm whose schedule is not a preset's, by name."""
    rates: tuple[float, ...] = ()
    """What its learning rate is chosen from; none: it has a recipe's."""
    embeddings: bool = True
    """Whether it says something of its own of networks that put out embeddings."""

    def follows_default(self, *, tuning: bool) -> bool:
        """Whether it keeps the blocks that `default` kept. PRACTISE chooses its own, which takes long, so that only its
        training is tuned."""
        return self.select is None and (tuning or self.maker != Maker.PRACTISE)


@dataclass(frozen=True)
class Phase:
    share: float
    """Of the steps."""
    frozen: tuple[str, ...]
    """Parts that keep the teacher's weights."""


DEFAULT, EVEN = "default", "lit-even"
RECIPE: Patch = {"preset": "few", "alpha": 0.0}
"""Its optimizer, its rates and whatever else it decides are the preset's."""
BY_HAND: Patch = {
    "alpha": 0.0,
    "schedule": {
        "optimizer": "adam",
        "weight_decay": 0.0,
        "batch_norm": "frozen",
        "dropout": False,
        "gradient_clip": 1.0,
    },
}
"""What the arms that the recipe is compared with share."""
NOT_TRAINED: Patch = {"steps_per_epoch": 1, "lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
"""A step that changes nothing: a training has at least one."""

ARMS: Mapping[str, Arm] = {
    DEFAULT: Arm(Maker.COMPRESS, "`preset: few` with `select: recover`", "recover", RECIPE),
    EVEN: Arm(Maker.COMPRESS, "`preset: few` with `select: even`", "even", RECIPE),
    "kd": Arm(
        Maker.COMPRESS,
        "Distillation; for embeddings 1 - cosine",
        hyperparameters={**BY_HAND, "method": "kd", "tau": TAU},
        phases={"lit": Phase(1.0, ("stem",))},
        rates=ADAM_RATES,
    ),
    "kd-tau8": Arm(
        Maker.COMPRESS,
        "Distillation at τ 8 instead of 4, which is nearer to matching the logits",
        hyperparameters={**BY_HAND, "method": "kd", "tau": HIGH_TAU},
        phases={"lit": Phase(1.0, ("stem",))},
        rates=(1e-4, 3e-4),
        embeddings=False,
    ),
    "hint": Arm(
        Maker.COMPRESS,
        "Hints: the IR loss of sections that the student itself feeds, then distillation",
        hyperparameters={
            **BY_HAND,
            **{"method": "lit", "feed": "student", "beta": 0.0, "ir_relative": True, "tau": TAU},
        },
        phases={"lit": Phase(0.65, ("stem", "head")), "fine_tune": Phase(0.35, ("stem",))},
        rates=ADAM_RATES,
    ),
    "mimic": Arm(
        Maker.COMPRESS,
        "Feature mimicking: the MSE at the input of the classifier",
        hyperparameters={**BY_HAND, "method": "mimic"},
        phases={"lit": Phase(1.0, ("stem", "head"))},
        rates=ADAM_RATES,
        embeddings=False,  # there the features are the output, so that this is `kd`
    ),
    "practise": Arm(Maker.PRACTISE, "The published procedure PRACTISE, with its own choice of blocks", rates=SGD_RATES),
    "repaired": Arm(
        Maker.COMPRESS,
        "The blocks of `default`, repaired but not trained",
        "recover",
        {**RECIPE, "race": False, "schedule": NOT_TRAINED},
    ),
    "untrained": Arm(Maker.NOBODY, "The blocks of `default`, and nothing else"),
}
ADAPTOR_STEPS = 25
"""Of PRACTISE, for each block that can be left out. The published code takes 2,000."""


@dataclass(frozen=True)
class Experiment:
    name: str
    network: str
    """A name in `networks.NETWORKS`."""
    depth: int
    """Blocks of the student."""
    samples: int
    steps: int = STEPS
    seeds: int = SEEDS

    @property
    def rates_of(self) -> str:
        """The experiment whose learning rates this one uses."""
        return TUNED_ON[self.network]


TUNED_ON = {"efficientnet-lite0": "lite0-100", "minilm-l6": "minilm-3-100"}
"""By network the experiment with whose samples and depth the learning rates are chosen."""


def _experiments(prefix: str, network: str, depth: int, sizes: tuple[int, ...]) -> list[Experiment]:
    return [Experiment(f"{prefix}-{samples}", network, depth, samples) for samples in sizes]


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment("lite0-50", "efficientnet-lite0", 10, 50),
    # With three seeds the interval of its advantage over distillation nearly excluded zero.
    Experiment("lite0-100", "efficientnet-lite0", 10, 100, seeds=5),
    Experiment("lite0-500", "efficientnet-lite0", 10, 500),
    *_experiments("minilm-3", "minilm-l6", 3, (100, 1000)),
    *_experiments("minilm-2", "minilm-l6", 2, (100, 1000)),
)


def tuned(file: Path = TUNED) -> Mapping[str, Mapping[str, float]]:
    """By experiment and arm the learning rate."""
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    return found
