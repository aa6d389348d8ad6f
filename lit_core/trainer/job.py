"""Runs one job: reads the files in its job folder, trains, and writes the files of its output."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lit_core.data import Dataset
from lit_core.measuring.cost import count_parameters
from lit_core.networks.block_selection import Selection
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.sharding import is_sharded
from lit_core.networks.student import student_architecture
from lit_core.networks.teacher import build_network, meta_network
from lit_core.report import measure_sharded, versions
from lit_core.tasks.classification import Classification
from lit_core.tasks.library_notes import library_notes, with_doubts
from lit_core.tasks.scale_of_floats import check_scale
from lit_core.trainer.blocks import choose_blocks, with_student
from lit_core.trainer.data import check_size, importance_inputs, load_job_dataset, sample_of
from lit_core.trainer.environment import check_exports, environment_of, prepare_torch, use_threads_that_pay
from lit_core.trainer.networks import found_with, load_teacher, make_student
from lit_core.trainer.output import write_output
from lit_core.trainer.plan import Planning, run_plan
from lit_core.trainer.ranks import group_of_ranks
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
from lit_core.training.loop import train_student
from lit_core.training.task import Task
from lit_spec import JobSpec, Method, Phase, Split
from lit_spec import Task as TaskKind
from lit_spec.trainer.folder import (
    CHECKPOINT_FILE,
    DISCRIMINATOR_FILE,
    OUTPUT_FOLDER,
    RUN_FILE,
    SPEC_FILE,
    TEACHER_FILE,
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
    messages.emit(Started(data={"environment": environment_of(run, spec, group), "versions": versions()}))

    def begin(phase: JobPhase) -> None:
        messages.emit(Progress(phase=phase))

    begin(JobPhase.LOADING)
    teacher = load_teacher(spec, folder, device, group)
    dataset = load_job_dataset(spec, run, folder, messages, stop)
    check_scale(spec, dataset)
    check_size(teacher, dataset)
    if not is_sharded(teacher):
        use_threads_that_pay(
            teacher.network, sample_of(spec, dataset, device, 1), spec.schedule.batch_size // group.size
        )
    # Perhaps with fewer threads than at the start.
    environment = environment_of(run, spec, group)
    doubts = library_notes(spec, teacher.network, dataset, device)
    dataset = replace(dataset, notes=[*dataset.notes, *doubts])
    if spec.student.plan is not None:
        sample = partial(sample_of, spec, dataset, device)
        planning = Planning(spec, spec.student.plan, teacher, dataset, device, sample, doubts)
        inputs = importance_inputs(spec, dataset, device)
        return run_plan(planning, inputs, messages, stop, environment, folder / OUTPUT_FOLDER)
    # The first rank's, so that all begin at the same place.
    stored = group.from_first(lambda: _read_checkpoint(folder / CHECKPOINT_FILE))
    checkpoint = None if stored is None else checkpoint_from(stored)

    def select() -> dict[str, Any]:
        return selection_as_dict(choose_blocks(spec, teacher, dataset, device, begin))

    selection = checkpoint.selection if checkpoint else selection_from_dict(found_with(teacher, group, select))
    log.info("blocks kept: %s, importance: %s", selection.kept_blocks, selection.importance)
    is_chosen_here, spec = spec.student.blocks is None, with_student(spec, selection)
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
