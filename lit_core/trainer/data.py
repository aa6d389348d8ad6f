"""The data set of a job, and samples of it for what is measured before the task is made."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.data.errors import Stopped
from lit_core.data.store.entry import NO_LIMIT, DataStore
from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.block_selection import Inputs
from lit_core.networks.discovery import check_trains
from lit_core.networks.sections import SectionedNetwork
from lit_core.seeding import generator_of
from lit_core.trainer.ranks import local_ranks
from lit_core.trainer.supervision import MessageSink, StopSignal
from lit_core.training.loop import Drained
from lit_core.training.task import Refused
from lit_spec import ErrorType, JobError, JobSpec, Split
from lit_spec import Task as TaskKind
from lit_spec.requests.contents import UPLOAD
from lit_spec.trainer.folder import DATASET_FILE, TEST_DATASET_FILE
from lit_spec.trainer.messages import Progress
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.run import TrainerRun

IMPORTANCE_SAMPLES = 512
SECONDS_OF_DAY = 86_400
DECODED_FOLDER = "decoded"
"""In the job folder, where the worker keeps no decoded images but several ranks need them."""

log = logging.getLogger("trainer")


class _Loading:
    """Tells how far the decoding of images is, and stops it on request: what is decoded stays in the store."""

    def __init__(self, messages: MessageSink, stop: StopSignal) -> None:
        self.messages, self.stop = messages, stop
        self.told = 0.0

    def __call__(self, done: int, images: int) -> None:
        if self.stop.stop_requested:
            raise Stopped
        if time.monotonic() - self.told > 1:
            self.told = time.monotonic()
            self.messages.emit(Progress(phase=JobPhase.LOADING, step=done, steps=images))


def _store(run: TrainerRun, folder: Path) -> DataStore | None:
    """Where decoded images are kept; None: in a folder of this process alone."""
    # One rank decodes while the others of this machine wait, so it has the threads of all.
    processes = min(len(os.sched_getaffinity(0)), local_ranks() * torch.get_num_threads())
    if run.data_store is not None:
        seconds = None if run.data_store_days is None else run.data_store_days * SECONDS_OF_DAY
        return DataStore(run.data_store, run.data_store_bytes, seconds, processes, reserve_bytes=run.disk_reserve_bytes)
    if local_ranks() > 1:
        return DataStore((folder / DECODED_FOLDER).resolve(), NO_LIMIT, processes=processes, durable=False)
    return None


def load_job_dataset(spec: JobSpec, run: TrainerRun, folder: Path, messages: MessageSink, stop: StopSignal) -> Dataset:
    """Raises DatasetError, Refused, and Drained after `stop` requested a stop."""
    path = run.datasets if spec.dataset.mounted else folder / DATASET_FILE
    interface = Interface.of(spec.teacher.architecture)
    try:
        dataset = load_dataset(
            spec.dataset,
            spec.augmentation,
            path,
            interface,
            test=folder / TEST_DATASET_FILE,
            download=run.datasets_download,
            store=_store(run, folder),
            watch=_Loading(messages, stop),
        )
    except Stopped as stopped:
        raise Drained from stopped
    except DatasetError as failure:
        if spec.dataset.url is None or failure.field != UPLOAD:
            raise
        raise DatasetError(failure.detail, field="dataset.url", member=failure.member) from failure
    samples = {split.value: len(arrays.y) for split, arrays in dataset.splits.items()}
    log.info("data set: %s, classes %s", samples, dataset.classes)
    if samples[Split.TRAIN.value] < 2:
        detail = f"the train split has {samples[Split.TRAIN.value]} sample, but training needs at least 2: add samples"
        raise Refused(JobError(type=ErrorType.BAD_DATASET, detail=detail, field="dataset"))
    return dataset


def check_size(teacher: SectionedNetwork, dataset: Dataset) -> None:
    """Raises Refused when a library's network can't take images of the data's size."""
    preprocessing = dataset.preprocessing
    if preprocessing.kind != "image" or teacher.probe_size is None:
        return
    try:
        with torch.no_grad():
            x = preprocessing.sample(2).to(next(teacher.network.parameters()).device)
            teacher.network(x)
            check_trains(teacher.network, x)
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        fault = f"the teacher can't take images of {preprocessing.size} pixels ({failure})"
        known = teacher.probe_size
        if preprocessing.size == known:
            # The inspection ran the network with this image size (on the meta device), so the size is not the cause.
            detail = f"{fault}: correct architecture.kwargs"
            error = JobError(type=ErrorType.BAD_TEACHER, detail=detail, field="architecture.kwargs")
        else:
            detail = f"{fault}: set dataset.size, for example to {known}"
            error = JobError(type=ErrorType.BAD_DATASET, detail=detail, field="dataset.size")
        raise Refused(error) from failure


def sample_of(spec: JobSpec, dataset: Dataset, device: torch.device, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs as those of the task, which can't be made before the student is."""
    x = dataset.preprocessing.sample(batch).to(device)
    if spec.teacher.architecture.task != TaskKind.TRANSLATION:
        return (x,)
    return x, torch.zeros(batch, len(dataset.classes), device=device)


def importance_inputs(spec: JobSpec, dataset: Dataset, device: torch.device) -> Iterator[Inputs]:
    """Samples; for a generator with the domain of another sample as the target."""
    x, y = dataset.splits[Split.TRAIN].x, dataset.splits[Split.TRAIN].y
    # In random order, because samples are often sorted by class, and not all who ask take all of these.
    rows = torch.randperm(len(x), generator=generator_of("importance"))[:IMPORTANCE_SAMPLES]
    for part in torch.split(rows, spec.schedule.batch_size):
        inputs = dataset.preprocessing.apply(x[part].to(device))
        generates = spec.teacher.architecture.task == TaskKind.TRANSLATION
        yield (inputs, y[part].roll(1, dims=0).to(device)) if generates else (inputs,)
