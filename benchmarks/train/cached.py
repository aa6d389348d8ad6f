"""A training step whose teacher is cached: its answers are read from the disk, as in all passes but the first ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.util import Finalize
from pathlib import Path

import torch

from benchmarks.train.workloads import Networks
from lit_core.data.views import SHARED_SEED, SampleViews
from lit_core.training.batch import Batch
from lit_core.training.caching.folder import CacheFolder
from lit_core.training.caching.teacher import TeacherCache, opened_cache
from lit_core.training.updaters import distillation_updater
from lit_spec import CachedType, Hyperparameters, Phase, Precision
from lit_spec.requests.presets import Preset, preset_values
from lit_spec.trainer.report import CachePlan

BATCHES = 8
"""That take turns, so that what is read is not always in the processor's cache."""
MOST_BYTES = 8 << 30


def cached_step(asked: Hyperparameters, networks: Networks, rate: float) -> Callable[[], None]:
    """The cache is filled when this returns, and removed when the process ends."""
    size = len(networks.labels)
    cache = _opened(BATCHES * size, asked.precision)
    updater = distillation_updater(asked, Phase.LIT, networks.teacher, networks.student, {}, cache)
    batches = [_batch(networks, number) for number in range(BATCHES)]
    for batch in batches:
        updater.step(batch, 0.0)
    taken = 0

    def step() -> None:
        nonlocal taken
        updater.step(batches[taken % BATCHES], rate)
        taken += 1

    return step


def as_few(asked: Hyperparameters) -> Hyperparameters:
    """With the losses and the optimiser of the preset `few`."""
    values = preset_values(Preset.FEW, "resnet_cifar")
    losses = {name: values[name] for name in ("alpha", "beta", "tau", "feed", "ir_relative", "feature_weight")}
    schedule = {
        name: values["schedule"][name]
        for name in ("optimizer", "weight_decay", "gradient_clip", "batch_norm", "dropout", "lit")
    }
    given = asked.model_dump(exclude_unset=True) | losses
    return Hyperparameters.model_validate(given | {"schedule": schedule})


def _batch(networks: Networks, number: int) -> Batch:
    size = len(networks.labels)
    rows = torch.arange(number * size, (number + 1) * size)
    return Batch((networks.inputs,), networks.labels, samples=SampleViews(rows, torch.zeros_like(rows), SHARED_SEED))


def _opened(samples: int, precision: Precision) -> TeacherCache:
    stack = ExitStack()
    # Unlike functions of `atexit`, it is also called in a process that multiprocessing has forked.
    Finalize(None, stack.close, exitpriority=0)
    root = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-train-"))
    half = CachedType.BFLOAT16 if precision == Precision.BFLOAT16 else CachedType.FLOAT16
    plan = CachePlan(views=1, dtype=half, bytes_per_view=0)
    return stack.enter_context(opened_cache(CacheFolder(Path(root), MOST_BYTES, MOST_BYTES), "one", samples, plan))
