"""What is compared: jobs with augmentation, on the data and with the teachers of the evidence. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.evidence.data import HARD
from benchmarks.evidence.teachers import RECIPES, Recipe
from lit_spec import DatasetRequest, merged

Patch = Mapping[str, Any]

HARD_DATA = "mnist5k-hard-short"
"""Measured on fewer draws than the evidence, which takes much of the time of short jobs."""
RECIPES_IN_SHORT: Mapping[str, Recipe] = {
    "mnist5k": replace(RECIPES["mnist5k"], epochs=10),
    HARD_DATA: replace(
        RECIPES["mnist5k-hard"], dataset=DatasetRequest(upload=HARD_DATA, mean=[0.0], std=[1.0]), epochs=15
    ),
}
"""By data set. Students are compared with each other, so a teacher need not be the best."""
VIEWS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    name: str
    dataset: str
    """A name in `RECIPES_IN_SHORT`, and of its teacher."""
    request: Patch
    """What all arms share, without teacher, data, cache and seed."""

    def arm(self, views: int | None, seed: int) -> dict[str, Any]:
        """The body of a request for a job. Without `views` each pass has new variations."""
        cache = "off" if views is None else {"views": views}
        own = {"teacher": self.dataset, "dataset": {"upload": self.dataset}, "teacher_cache": cache, "seed": seed}
        return merged(merged(COMMON, self.request), own)


COMMON: Patch = {"student": {"depth": 14, "select": "even"}, "exports": []}
HARDER: Patch = {"augmentation": HARD.model_dump(exclude_unset=True), "dataset": {"mean": [0.0], "std": [1.0]}}
PASSES: Patch = {
    "dataset": {"train_samples": 480},
    "schedule": {"steps_per_epoch": 60, "lit": {"epochs": 5}, "fine_tune": {"epochs": 1}},
}
"""360 steps, 24 passes over 480 images: an evaluation every four passes."""

SETTINGS = (
    Setting("hard", HARD_DATA, merged(PASSES, HARDER)),
    # 400 steps, 64 passes. Without the preset's race, whose choice of a rate would be compared instead of the views:
    # the rate is the one that it chose without a cache. Its twenty evaluations would take much of the time.
    Setting(
        "few",
        HARD_DATA,
        merged(
            HARDER,
            {
                "preset": "few",
                "race": False,
                "dataset": {"train_samples": 200, "labels": False},
                "schedule": {"steps_per_epoch": 50, "lit": {"epochs": 8, "learning_rate": 0.0054}},
            },
        ),
    ),
    Setting("easy", "mnist5k", merged(PASSES, {"augmentation": {"shift": 1}})),
)
