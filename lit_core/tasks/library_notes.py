"""What the user should know where a job does not preprocess images as the teacher's library does."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.data import Dataset, ImagePreprocessing
from lit_core.data.pixels import fit
from lit_core.data.preprocessing import published_preprocessing
from lit_core.data.store.rows import Rows
from lit_core.measuring.intervals import Z
from lit_core.seeding import generator_of
from lit_core.tasks.classification import evaluating
from lit_spec import Constants, JobSpec, LibraryPreprocessing, Split

SAMPLES, BATCH = 128, 8
"""Small batches, because the library's images may be much larger than those of the job."""
CLEARLY = 0.05
"""A smaller difference of the mean confidence is not told, however certain it is."""

log = logging.getLogger("trainer")


def library_notes(spec: JobSpec, teacher: nn.Module, dataset: Dataset, device: torch.device) -> list[str]:
    """Sentences about constants that were measured where the library has some, and, without labels, about a teacher
    that is clearly less sure of its answers than with the library's preprocessing."""
    library = spec.teacher.preprocessing
    if library is None or not isinstance(dataset.preprocessing, ImagePreprocessing):
        return []
    notes = _measured_constants(spec, library)
    given, published = dataset.preprocessing, published_preprocessing(library, dataset.classes)
    # Floats may have been scaled before, in a way that is unknown.
    if given.scale == published.scale and given != published and not dataset.splits[Split.VALIDATION].labels:
        notes += _less_confident(teacher, dataset.splits[Split.TRAIN].x, given, published, device)
    return notes


def with_doubts(scores: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The teacher's scores, whose `note` has these notes too, so that they are known before the training."""
    all_notes = [*([scores["note"]] if "note" in scores else []), *notes]
    return {**scores, "note": ". ".join(all_notes)} if all_notes else scores


def _measured_constants(spec: JobSpec, library: LibraryPreprocessing) -> list[str]:
    names = [name for name in ("mean", "std") if getattr(spec.dataset, name) == Constants.DATA]
    if not names:
        return []
    known = " and ".join(f"{name} {getattr(library, name)}" for name in names)
    fields = " and ".join(f"dataset.{name}" for name in names)
    return [
        f"{fields} {'is' if len(names) == 1 else 'are'} measured on the data, but the teacher's library has {known} "
        f"for its weights {library.weights}: if the teacher was trained with these, leave {fields} out"
    ]


def _less_confident(
    teacher: nn.Module, x: Rows, given: ImagePreprocessing, published: ImagePreprocessing, device: torch.device
) -> list[str]:
    samples = x[torch.randperm(len(x), generator=generator_of("confidence"))[:SAMPLES]]
    own = _probabilities(teacher, samples, given, device)
    try:
        usual = _probabilities(teacher, samples, published, device)
    except Exception:
        # The library's size may be none for this network, or too large for the memory, which doesn't concern the job.
        log.warning("the teacher does not run with its library's preprocessing", exc_info=True)
        return [
            f"the teacher's confidence was not compared with that under its library's preprocessing, because it does "
            f"not run on images of {published.size} pixels here: check dataset.size, dataset.mean and dataset.std"
        ]
    loss = usual.amax(dim=1) - own.amax(dim=1)
    # A paired comparison: the samples are the same. At 95 % it is not chance.
    if len(samples) < 2 or float(loss.mean()) < max(CLEARLY, Z * float(loss.std()) / math.sqrt(len(samples))):
        return []
    shown = [
        f"{100 * float(found.amax(dim=1).mean()):.1f} % (entropy {float(_entropy(found)):.2f} nats)"
        for found in (own, usual)
    ]
    return [
        f"on {len(samples)} training samples the teacher's mean confidence is {shown[0]} with this job's "
        f"preprocessing, but {shown[1]} with that of its library: leave dataset.size, dataset.resize, "
        "dataset.resampling, dataset.mean and dataset.std out, unless the teacher was trained with them"
    ]


@torch.no_grad()
def _probabilities(teacher: nn.Module, x: Tensor, preprocessing: ImagePreprocessing, device: torch.device) -> Tensor:
    """(N, classes) in float64, on the CPU. The job has cut x (N, C, H, W) already, so that it is only resized."""
    geometry = preprocessing.model_copy(update={"crop": None, "resize": None})
    found = []
    with evaluating(teacher):
        for raw in torch.split(x, BATCH):
            inputs = preprocessing.apply(fit(raw, geometry).to(device))
            found.append(teacher(inputs).double().softmax(dim=1).cpu())
    return torch.cat(found)


def _entropy(probabilities: Tensor) -> Tensor:
    """The mean over the samples, in nats."""
    entropies: Tensor = torch.special.entr(probabilities).sum(dim=1)
    return entropies.mean()
