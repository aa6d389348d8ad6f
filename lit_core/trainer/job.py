"""Runs one job: reads the files in its job folder, trains, and writes the files of its output."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.data.errors import Stopped
from lit_core.data.store.entry import NO_LIMIT, DataStore
from lit_core.measuring.cost import count_parameters
from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.block_selection import Inputs, Selection, first_blocks_stay
from lit_core.networks.discovery import check_trains
from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.sharding import is_sharded
from lit_core.networks.student import shallow_architecture, student_architecture
from lit_core.networks.teacher import build_network, meta_network
from lit_core.report import measure_sharded, versions
from lit_core.seeding import generator_of
from lit_core.selection.blocks import Depth, FixedBlocks, select_blocks
from lit_core.selection.repair import with_repair
from lit_core.selection.targets import Measurements, select_for_target
from lit_core.tasks.classification import Classification, validation_drop
from lit_core.tasks.library_notes import library_notes, with_doubts
from lit_core.tasks.scale_of_floats import check_scale
from lit_core.trainer.environment import check_exports, environment_of, prepare_torch, use_threads_that_pay
from lit_core.trainer.networks import found_with, load_teacher, make_student
from lit_core.trainer.output import write_output
from lit_core.trainer.plan import Planning, run_plan
from lit_core.trainer.ranks import group_of_ranks, local_ranks
from lit_core.trainer.supervision import MessageSink, StopSignal
from lit_core.trainer.teacher_cache import CachingJob
from lit_core.training.caching.teacher import TeacherCache
from lit_core.training.checkpoint import (
    Checkpoint,
    checkpoint_from,
    read_checkpoint,
    save_checkpoint,
    selection_as_dict,
    selection_from_dict,
)
from lit_core.training.group import Group
from lit_core.training.loop import Drained, train_student
from lit_core.training.task import Refused, Task
from lit_spec import ErrorType, JobError, JobSpec, Method, Phase, Split
from lit_spec import Task as TaskKind
from lit_spec.networks.students import blocks_in_all
from lit_spec.requests.contents import UPLOAD
from lit_spec.requests.student import check_kept
from lit_spec.trainer.folder import (
    CHECKPOINT_FILE,
    DATASET_FILE,
    DISCRIMINATOR_FILE,
    OUTPUT_FOLDER,
    RUN_FILE,
    SPEC_FILE,
    TEACHER_FILE,
    TEST_DATASET_FILE,
)
from lit_spec.trainer.messages import (
    CheckpointWritten,
    EpochDone,
    Progress,
    Started,
    StudentChosen,
    TeacherMeasured,
)
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.plan import PlanReport
from lit_spec.trainer.report import CachePlan, Report
from lit_spec.trainer.run import TrainerRun

IMPORTANCE_SAMPLES = 512
SECONDS_OF_DAY = 86_400
DECODED_FOLDER = "decoded"
"""In the job folder, where the worker keeps no decoded images but several ranks need them."""

log = logging.getLogger("trainer")


class JobObserver:
    """Turns a training's progress into messages and the checkpoint's file."""

    def __init__(self, messages: MessageSink, stop: StopSignal, folder: Path) -> None:
        self.messages = messages
        self.stop = stop
        self.folder = folder

    def epoch(
        self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float], steps: int
    ) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("%s epoch %d/%d: %s", phase, epoch, epochs, shown)
        self.messages.emit(
            EpochDone(phase=phase, epoch=epoch, epochs=epochs, fraction=fraction, metrics=metrics, steps=steps),
        )

    def progress(self, progress: Progress) -> None:
        self.messages.emit(progress)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(checkpoint, self.folder / CHECKPOINT_FILE)
        position = checkpoint.position
        self.messages.emit(CheckpointWritten(phase=position.phase, epoch=position.epoch, step=position.step))

    def stop_requested(self) -> bool:
        return self.stop.stop_requested


class FollowingObserver:
    """That of a rank which is not the first: it tells nothing, and writes no checkpoint."""

    def __init__(self, stop: StopSignal) -> None:
        self.stop = stop

    def epoch(
        self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float], steps: int
    ) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def checkpoint(self, checkpoint: Checkpoint) -> None: ...

    def stop_requested(self) -> bool:
        return self.stop.stop_requested


def run_job(folder: Path, messages: MessageSink, stop: StopSignal) -> Report | PlanReport | None:
    """Run the job in `folder`, write its output, and return the report; None in all ranks but the first.

    Raises Refused, DatasetError, SpecError, NoSections and Diverged, and Drained after `stop` requested a stop.
    """
    run = TrainerRun.model_validate_json((folder / RUN_FILE).read_bytes())
    with group_of_ranks(run.device) as group:
        return _run_in_group(folder, run, messages, stop, group)


def _run_in_group(
    folder: Path, run: TrainerRun, messages: MessageSink, stop: StopSignal, group: Group
) -> Report | PlanReport | None:
    spec = JobSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    check_exports(spec.exports)
    device = prepare_torch(run, sharded=spec.shard_teacher)
    environment = environment_of(run, spec, group)
    messages.emit(Started(data={"environment": environment, "versions": versions()}))

    def begin(phase: JobPhase) -> None:
        messages.emit(Progress(phase=phase))

    begin(JobPhase.LOADING)
    teacher = load_teacher(spec, folder, device, group)
    dataset = _load_dataset(spec, run, folder, _Loading(messages, stop))
    check_scale(spec, dataset)
    _check_size(teacher, dataset)
    if not is_sharded(teacher):
        use_threads_that_pay(teacher.network, _sample(spec, dataset, device, 1), spec.schedule.batch_size // group.size)
        environment = environment_of(run, spec, group)
    doubts = library_notes(spec, teacher.network, dataset, device)
    dataset = replace(dataset, notes=[*dataset.notes, *doubts])
    if spec.student.plan is not None:
        sample = partial(_sample, spec, dataset, device)
        planning = Planning(spec, spec.student.plan, teacher, dataset, device, sample, doubts)
        inputs = _importance_inputs(spec, dataset, device)
        return run_plan(planning, inputs, messages, stop, environment, folder / OUTPUT_FOLDER)
    # The first rank's, so that all begin at the same place.
    stored = group.from_first(lambda: _read_checkpoint(folder / CHECKPOINT_FILE))
    checkpoint = None if stored is None else checkpoint_from(stored)

    def select() -> dict[str, Any]:
        return selection_as_dict(_select_blocks(spec, teacher, dataset, device, begin))

    selection = checkpoint.selection if checkpoint else selection_from_dict(found_with(teacher, group, select))
    log.info("blocks kept: %s, importance: %s", selection.kept_blocks, selection.importance)
    is_chosen_here, spec = spec.student.blocks is None, _with_student(spec, selection)
    if checkpoint is None and is_chosen_here:
        chosen: dict[str, Any] = {"kept": selection.kept_blocks}
        if selection.target is not None:
            chosen["target"] = selection.target.as_json()
        messages.emit(StudentChosen(data={"depth": spec.student.depth, "blocks": spec.student.blocks, **chosen}))
    student = make_student(spec, folder, teacher, selection.kept_blocks, device)

    begin(JobPhase.MEASURING_TEACHER)
    caching = CachingJob(spec, run, teacher, dataset, device)
    with caching.opened(checkpoint.cache_plan if checkpoint else None) as caches:
        cache = caches[1]
        task = _make_task(spec, run, teacher, student, dataset, device, folder, selection, *caches)
        if is_sharded(teacher):
            # Later the first rank alone compares students with the teacher's answers to these samples.
            task.measure(teacher.network, Split.VALIDATION)
            task.preview()
        teacher_scores = found_with(teacher, group, lambda: with_doubts(task.check(), doubts))
        log.info("teacher: %s", teacher_scores)
        messages.emit(TeacherMeasured(data=teacher_scores))

        trained = train_student(
            task,
            spec,
            JobObserver(messages, stop, folder) if group.rank == 0 else FollowingObserver(stop),
            selection=selection,
            environment={**environment, **versions(), **({} if cache is None else cache.environment())},
            checkpoint=checkpoint,
            attempt=run.attempt,
            group=group,
        )
        begin(JobPhase.MEASURING_STUDENT)
        sharded = measure_sharded(task, spec) if is_sharded(teacher) else None
        if group.rank != 0:
            return None
        output, teacher_file = folder / OUTPUT_FOLDER, folder / TEACHER_FILE
        return write_output(output, spec, trained, environment, begin, teacher_file=teacher_file, sharded=sharded)


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
        return DataStore(run.data_store, run.data_store_bytes, seconds, processes)
    if local_ranks() > 1:
        return DataStore((folder / DECODED_FOLDER).resolve(), NO_LIMIT, processes=processes, durable=False)
    return None


def _load_dataset(spec: JobSpec, run: TrainerRun, folder: Path, watch: Callable[[int, int], None]) -> Dataset:
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
            watch=watch,
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


def _check_size(teacher: SectionedNetwork, dataset: Dataset) -> None:
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


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    """What the checkpoint's file has; None to start from the beginning. A checkpoint that can't be read does not fail
    the job."""
    if not path.exists():
        return None
    try:
        stored = read_checkpoint(path)
        checkpoint = checkpoint_from(stored)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as failure:
        log.warning("the checkpoint can't be read, so the training starts from the beginning: %s", failure)
        return None
    log.info("resuming at %s", checkpoint.position)
    return stored


def _select_blocks(
    spec: JobSpec, teacher: SectionedNetwork, dataset: Dataset, device: torch.device, begin: Callable[[JobPhase], None]
) -> Selection:
    """The student's blocks, and its repaired weights if it is to be repaired. Raises SpecError for blocks of which one
    that must stay is missing, and for a target that no student reaches."""
    begin(JobPhase.CHOOSING_BLOCKS if spec.student.target is None else JobPhase.SEARCHING_TARGET)
    selection = _chosen_blocks(spec, teacher, dataset, device, _importance_inputs(spec, dataset, device))
    if not spec.student.repair:
        return selection
    begin(JobPhase.REPAIRING)
    return with_repair(selection, teacher, _importance_inputs(spec, dataset, device))


def _chosen_blocks(
    spec: JobSpec, teacher: SectionedNetwork, dataset: Dataset, device: torch.device, inputs: Iterator[Inputs]
) -> Selection:
    student = spec.student
    if student.select is None:
        kept = student.kept or []
        check_kept(kept, spec.teacher.architecture.blocks, first_blocks_stay(teacher, next(inputs)), "student.kept")
        return Selection(kept)
    if student.blocks is not None:
        return select_blocks(teacher, FixedBlocks(student.blocks), student.select, inputs)
    if student.target is None:
        architecture = spec.teacher.architecture
        total = blocks_in_all(student.depth or 0, family_of(architecture).students(architecture))
        return select_blocks(teacher, Depth(total), student.select, inputs)
    measurements = Measurements(
        sample=lambda batch: _sample(spec, dataset, device, batch),
        precision=spec.precision,
        drop=validation_drop(teacher.network, dataset, device, 4 * spec.schedule.batch_size),
    )
    # The request may have named a ratio of parameters in two ways.
    field = "student" if student.target.parameters_ratio is not None else "student.target"
    return select_for_target(teacher, student.target, student.select, inputs, measurements, field)


def _sample(spec: JobSpec, dataset: Dataset, device: torch.device, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs as those of the task, which can't be made before the student is."""
    x = dataset.preprocessing.sample(batch).to(device)
    if spec.teacher.architecture.task != TaskKind.TRANSLATION:
        return (x,)
    return x, torch.zeros(batch, len(dataset.classes), device=device)


def _with_student(spec: JobSpec, selection: Selection) -> JobSpec:
    """The specification with the student that was chosen."""
    chosen = shallow_architecture(spec.teacher.architecture, selection.kept_blocks)
    update = {"depth": chosen.depth, "blocks": chosen.blocks}
    return spec.model_copy(update={"student": spec.student.model_copy(update=update)})


def _importance_inputs(spec: JobSpec, dataset: Dataset, device: torch.device) -> Iterator[Inputs]:
    """Samples; for a generator with the domain of another sample as the target."""
    x, y = dataset.splits[Split.TRAIN].x, dataset.splits[Split.TRAIN].y
    # In random order, because samples are often sorted by class, and not all who ask take all of these.
    rows = torch.randperm(len(x), generator=generator_of("importance"))[:IMPORTANCE_SAMPLES]
    for part in torch.split(rows, spec.schedule.batch_size):
        inputs = dataset.preprocessing.apply(x[part].to(device))
        generates = spec.teacher.architecture.task == TaskKind.TRANSLATION
        yield (inputs, y[part].roll(1, dims=0).to(device)) if generates else (inputs,)


def _make_task(
    spec: JobSpec,
    run: TrainerRun,
    teacher: SectionedNetwork,
    student: SectionedNetwork,
    dataset: Dataset,
    device: torch.device,
    folder: Path,
    selection: Selection,
    cache_plan: CachePlan | None,
    cache: TeacherCache | None,
) -> Task:
    if spec.teacher.architecture.task == TaskKind.TRANSLATION:
        # Imported here because torchmetrics takes seconds to load, and classifiers do not need it.
        from lit_core.measuring.gan_scores import load_feature_network
        from lit_core.tasks.translation import Translation

        feature = None if run.feature_network is None else load_feature_network(run.feature_network).to(device)
        discriminator = _discriminator(spec, device, folder)
        return Translation(spec, teacher, student, dataset, device, discriminator=discriminator, feature=feature)
    size = count_parameters(student.network)
    if spec.method == Method.PRUNE:
        shallow = spec.model_copy(update={"method": Method.LIT})
        size = count_parameters(meta_network(student_architecture(shallow, selection.kept_blocks)))
    return Classification(
        spec, teacher, student, dataset, device, student_parameters=size, cache_plan=cache_plan, cache=cache
    )


def _discriminator(spec: JobSpec, device: torch.device, folder: Path) -> torch.nn.Module | None:
    if spec.discriminator is None:
        return None
    return build_network(spec.discriminator.architecture, folder / DISCRIMINATOR_FILE).to(device)
