"""Classifiers of images and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.data import Arrays, Dataset, DatasetError, augment
from lit_core.data.labels import NO_LABEL
from lit_core.data.pixel_changes import change_pixels, crop_source
from lit_core.data.sampled import at_most
from lit_core.data.store.rows import expect
from lit_core.data.views import SampleViews, ViewPlan
from lit_core.measuring.cost import count_parameters
from lit_core.measuring.intervals import paired_difference, wilson
from lit_core.measuring.scores import (
    Prediction,
    Skill,
    agreement,
    calibration_error,
    chance,
    divergence,
    per_class,
    right_answers,
    skill,
    top1,
    top5,
)
from lit_core.networks.modes import in_eval_mode
from lit_core.networks.sections import SectionedNetwork
from lit_core.seeding import seeded
from lit_core.training.batch import Batch
from lit_core.training.caching.teacher import TeacherCache
from lit_core.training.checkpoint import BestEpoch
from lit_core.training.mixing import mixtures_of
from lit_core.training.outcome import NOT_COMPARABLE, Judgement, Score, judged_at_chance, judged_by
from lit_core.training.pruning import check_prunable, parameters_left, prune_by, prune_to, spared_of
from lit_core.training.task import Refused, Scores
from lit_core.training.updaters import Updater, distillation_updater
from lit_spec import Architecture, ErrorType, Hyperparameters, JobError, JobSpec, Method, Output, Phase, Split
from lit_spec.requests.then import prune_shares
from lit_spec.trainer.report import CachePlan, Comparison, MeasuredAccuracy, Measures, TeacherCacheReport

EVALUATION_BATCH = 256
"""At most. Evaluation batches are smaller where training batches are small, which hints at little memory."""
PREPARATION_SAMPLES = 1024
"""Of a split, at most, that are looked at before the first step, which must not take longer where there are more."""


class Classification:
    """Trains a student to answer as its teacher does, or as the labels say."""

    held_out = True

    def __init__(
        self,
        spec: JobSpec,
        teacher: SectionedNetwork,
        student: SectionedNetwork,
        dataset: Dataset,
        device: torch.device,
        *,
        student_parameters: int,
        cache_plan: CachePlan | None = None,
        cache: TeacherCache | None = None,
    ) -> None:
        """`student_parameters` is the size of a student with the specification's blocks; method `prune` prunes to it.
        A cache is needed if the plan has one.

        Raises DatasetError when the method needs labels and there are none, and SpecError for a pruning that the
        networks don't allow.
        """
        self.spec, self.teacher, self.student, self.dataset, self.device = spec, teacher, student, dataset, device
        self.train = dataset.splits[Split.TRAIN]
        self.samples = len(self.train.y) + spec.n_random
        self.cache_plan, self._cache = cache_plan, cache
        self.views = ViewPlan(spec.seed, None if cache_plan is None else cache_plan.views)
        _check_labels(spec, self.train)
        self.labelled = dataset.splits[Split.VALIDATION].labelled
        self.selection = "accuracy" if self.labelled else "agreement"
        self.masks: dict[str, Tensor] = {}
        if spec.method == Method.PRUNE:
            self.masks = prune_to(student.network, student_parameters, spec.pruning, self._spared())
        if prune_shares(spec.then):
            check_prunable(student.network, spec.pruning, self._spared())
        self._few = with_few(dataset)
        self.previews = self._few.splits[Split.VALIDATION] is not dataset.splits[Split.VALIDATION]
        self._taught: dict[int, Prediction] = {}

    def check(self) -> dict[str, Any]:
        split, answers = self._labelled_answers(self._few)
        return check_teacher(answers, split, self.dataset, self.spec)

    def teacher_accuracy(self) -> MeasuredAccuracy | None:
        split, answers = self._labelled_answers(self.dataset)
        return measured_accuracy(answers, split, self.spec)

    def supersedes(self, phase: Phase) -> bool:  # noqa: ARG002
        return False

    def updater(self, phase: Phase, hyperparameters: Hyperparameters) -> Updater:
        return distillation_updater(hyperparameters, phase, self.teacher, self.student, self.masks, self._cache)

    def prune(self, share: float) -> None:
        self.masks = prune_by(self.student.network, share, self.spec.pruning, self._spared())

    def batch(self, samples: SampleViews, progress: float, generator: torch.Generator) -> Batch:
        x, labels = self._inputs(samples), self._labels(samples)
        mixtures = mixtures_of(samples, self.spec.mixing, self.samples)
        if len(mixtures.own):
            x = mixtures.mix(x, self._inputs(mixtures.others))
            labels[mixtures.own.to(self.device)] = NO_LABEL
        return Batch((x,), labels, progress, generator, samples)

    def _inputs(self, samples: SampleViews) -> Tensor:
        """The network's inputs (B, …); of row numbers beyond the split random noise."""
        is_real = samples.rows < len(self.train.y)
        if bool(is_real.all()):
            raw = crop_source(self.train)[samples.rows].to(self.device)
            x = self.dataset.preprocessing.apply(change_pixels(raw, self.dataset, samples))
            return augment(x, self.dataset.augmentation, samples)
        made = samples.at(~is_real)
        noise = [self.dataset.preprocessing.random(1, generator) for generator in made.generators("pixels")]
        x = torch.cat(noise).to(self.device)
        if not bool(is_real.any()):
            return x
        real = self._inputs(samples.at(is_real))
        both = real.new_empty(len(samples), *real.shape[1:])
        both[is_real.to(self.device)], both[~is_real.to(self.device)] = real, x
        return both

    def _labels(self, samples: SampleViews) -> Tensor:
        is_real = samples.rows < len(self.train.y)
        labels = torch.full_like(samples.rows, NO_LABEL)
        labels[is_real] = self.train.y[samples.rows[is_real]]
        return labels.to(self.device)

    def expect(self, rows: Tensor) -> None:
        expect(crop_source(self.train), rows[rows < len(self.train.y)])

    def rewind(self) -> None:
        """The rows of a batch are its order."""

    def score(self) -> Scores:
        return self._score(self.dataset)

    def preview(self) -> Scores:
        return self._score(self._few)

    def _score(self, dataset: Dataset) -> Scores:
        made, taught = (self._predict(one.network, Split.VALIDATION, dataset) for one in (self.student, self.teacher))
        metrics = {"agreement": agreement(made.logits, taught.logits)}
        if self.labelled:
            metrics |= {"student_accuracy": top1(made), "teacher_accuracy": top1(taught)}
        return Scores(metrics["student_accuracy" if self.labelled else "agreement"], metrics)

    def divergence(self) -> float:
        made, taught = (
            self._predict(one.network, Split.VALIDATION, self._few).logits for one in (self.student, self.teacher)
        )
        return float(divergence(made, taught, Output.LOGITS))

    def measure(self, network: nn.Module, split: Split) -> dict[str, Any]:
        prediction = self._predict(network, split)
        labelled = self.dataset.splits[split].labelled
        return {
            "accuracy": top1(prediction) if labelled else None,
            "top5": top5(prediction) if labelled else None,
            "per_class": per_class(prediction, self.dataset.classes) if labelled else None,
            "calibration_error": calibration_error(prediction) if labelled else None,
            "agreement": agreement(prediction.logits, self._teacher_logits(split)),
        }

    def compare(self, teacher: Measures, student: Measures) -> Comparison:
        drop, measured = self._accuracy_drop(teacher, student)
        low, high = self._drop_interval(measured)
        accept = self.spec.accept
        return Comparison(
            accuracy_drop=drop,
            accuracy_drop_is="measured" if measured else "bounded by agreement",
            accuracy_drop_interval=(round(low, 4), round(high, 4)),
            accuracy_drop_samples=len(self.dataset.splits[Split.TEST].y),
            notes=[
                *self.dataset.notes,
                *self._skill_notes(),
                *(
                    _unlabelled(split, self.dataset.splits[split])
                    for split in (Split.VALIDATION, Split.TEST)
                    if not self.dataset.splits[split].labelled
                ),
                *self._undecided(drop, low, high),
            ],
            accepted=None if accept is None or accept.max_accuracy_drop is None else drop <= accept.max_accuracy_drop,
        )

    def judge(self, teacher: Measures, student: Measures, untrained: Measures, best: BestEpoch) -> Judgement:
        """By the accuracy on the test split or, without labels there, by the agreement with the teacher."""
        split, labelled = Split.TEST, self.dataset.splits[Split.TEST].labelled
        metric = "accuracy" if labelled else "agreement"
        taught, trained, before = (network.score(metric, split) for network in (teacher, student, untrained))
        if taught is None or trained is None or before is None:
            return NOT_COMPARABLE
        prediction = self._predict(self.student.network, split)
        if not labelled:
            prediction = Prediction(prediction.logits, self._teacher_logits(split).argmax(dim=1))
        at_chance = judged_at_chance(prediction, metric, split)
        return at_chance or judged_by(Score(metric, "%", split, taught, trained, before), best)

    def _accuracy_drop(self, teacher: Measures, student: Measures) -> tuple[float, bool]:
        """In points, and whether it was measured. Without labels it is an upper bound: whatever the truth is, the
        accuracy falls by no more than the share of samples to which the student gives another answer."""
        before, after = teacher.score("accuracy", Split.TEST), student.score("accuracy", Split.TEST)
        if before is not None and after is not None:
            return round(before - after, 4), True
        agreed = student.score("agreement", Split.TEST)
        if agreed is None:
            raise ValueError("an accuracy drop needs the student's accuracy, or its agreement with the teacher")
        return round(100 - agreed, 4), False

    def _drop_interval(self, measured: bool) -> tuple[float, float]:
        taught, made = (self._predict(network.network, Split.TEST) for network in (self.teacher, self.student))
        samples = len(taught.labels)
        if not measured:
            return wilson(int((taught.logits.argmax(dim=1) != made.logits.argmax(dim=1)).sum()), samples)
        before, after = right_answers(taught), right_answers(made)
        return paired_difference(int((before & ~after).sum()), int((after & ~before).sum()), samples)

    def _undecided(self, drop: float, low: float, high: float) -> list[str]:
        """A warning where the test split is too small to say whether the student may be accepted."""
        accept, samples = self.spec.accept, len(self.dataset.splits[Split.TEST].y)
        allowed = None if accept is None else accept.max_accuracy_drop
        if allowed is None or not low <= allowed < high:
            return []
        return [
            f"the {samples} samples of the test split don't decide whether the student loses more than {allowed:g} "
            f"points of accuracy: it lost {drop:.2f}, with a 95 % interval of {low:.2f} to {high:.2f}. Give more test "
            "samples"
        ]

    def parameters(self, network: SectionedNetwork) -> int:
        count = parameters_left if self.spec.method == Method.PRUNE else count_parameters
        return count(network.network)

    def sample(self, batch: int) -> tuple[Tensor, ...]:
        return (self.dataset.preprocessing.sample(batch).to(self.device),)

    def batches(self, split: Split) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        arrays = self.dataset.splits[split]
        for start in range(0, len(arrays.y), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            yield (self.dataset.preprocessing.apply(arrays.x[part].to(self.device)),), arrays.y[part]

    def teacher_cache(self) -> TeacherCacheReport | None:
        if self._cache is not None:
            return self._cache.report()
        return None if self.cache_plan is None else TeacherCacheReport(**self.cache_plan.as_json())

    def write_pictures(self, folder: Path) -> None:
        """Classifiers have no pictures."""

    def _spared(self) -> list[Tensor]:
        return spared_of(self.student, self.spec.pruning, self.spec.teacher.architecture.classes)

    def _labelled_answers(self, dataset: Dataset) -> tuple[Split, Prediction]:
        return labelled_answers(dataset, lambda split: self._predict(self.teacher.network, split, dataset))

    def _skill_notes(self) -> list[str]:
        """A warning where no labels show that the teacher is better than chance, though there are some."""
        split, answers = self._labelled_answers(self.dataset)
        if len(answers.labels) == 0 or skill(answers) != Skill.UNCERTAIN:
            return []
        return [_uncertain(answers, split, self.dataset, self.spec.teacher.architecture)]

    def _teacher_logits(self, split: Split) -> Tensor:
        return self._predict(self.teacher.network, split).logits

    def _predict(self, network: nn.Module, split: Split, dataset: Dataset | None = None) -> Prediction:
        """`dataset` None: the whole split."""
        dataset = dataset or self.dataset
        if network is not self.teacher.network:
            return self._answers(network, split, dataset)
        # The teacher never changes, so it runs once on the same samples.
        samples = id(dataset.splits[split])
        if samples not in self._taught:
            self._taught[samples] = self._answers(network, split, dataset)
        return self._taught[samples]

    def _answers(self, network: nn.Module, split: Split, dataset: Dataset) -> Prediction:
        return predict(network, dataset, split, self.device, 4 * self.spec.schedule.batch_size)


def with_few(dataset: Dataset) -> Dataset:
    """The data with at most `PREPARATION_SAMPLES` validation and test samples."""
    few = {split: at_most(PREPARATION_SAMPLES, dataset.splits[split]) for split in (Split.VALIDATION, Split.TEST)}
    return replace(dataset, splits={**dataset.splits, **few})


def labelled_answers(dataset: Dataset, taught: Callable[[Split], Prediction]) -> tuple[Split, Prediction]:
    """The teacher's answers to the samples with a label: of the validation split or, if it has none, of the test split.
    There may be none. `taught` gives its answers to a whole split."""
    splits = (Split.VALIDATION, Split.TEST)
    split = next((split for split in splits if dataset.splits[split].labels), Split.VALIDATION)
    prediction = taught(split)
    known = prediction.labels != NO_LABEL
    return split, Prediction(prediction.logits[known], prediction.labels[known])


def check_teacher(prediction: Prediction, split: Split, dataset: Dataset, spec: JobSpec) -> dict[str, Any]:
    """The scores of a teacher's answers to the labelled samples of a split, with a `note` if they don't show that it is
    better than chance. Raises Refused if they show that it isn't, or is less accurate than the request says."""
    teacher = spec.teacher.architecture
    measured = measured_accuracy(prediction, split, spec)
    _check_expected(measured, dataset, spec)
    if measured is None:
        return {"split": split.value, "accuracy": None, "chance": None}
    scores: dict[str, Any] = {
        "split": split.value,
        "accuracy": top1(prediction),
        "chance": chance(prediction),
        **measured.model_dump(mode="json", include={"interval", "samples"}),
    }
    found = skill(prediction)
    if found == Skill.AT_CHANCE:
        detail = _at_chance(prediction, split, dataset, teacher)
        raise Refused(JobError(type=ErrorType.TEACHER_NEAR_CHANCE, detail=detail, field="dataset"))
    if found == Skill.UNCERTAIN:
        scores["note"] = _uncertain(prediction, split, dataset, teacher)
    return scores


def measured_accuracy(prediction: Prediction, split: Split, spec: JobSpec) -> MeasuredAccuracy | None:
    """Of a teacher's answers to the labelled samples of a split; None if there are none."""
    samples = len(prediction.labels)
    if samples == 0:
        return None
    right = int(right_answers(prediction).sum())
    low, high = wilson(right, samples)
    return MeasuredAccuracy(
        accuracy=round(100 * right / samples, 4),
        interval=(round(low, 4), round(high, 4)),
        samples=samples,
        split=split,
        expected=spec.teacher_accuracy,
    )


def _check_expected(measured: MeasuredAccuracy | None, dataset: Dataset, spec: JobSpec) -> None:
    """Raises Refused where the samples show that the teacher is less accurate than the request says."""
    if spec.teacher_accuracy is None:
        return
    if measured is None:
        detail = "neither the validation nor the test split has labels, which teacher_accuracy needs: give some, or "
        detail += "leave it out"
        raise Refused(JobError(type=ErrorType.BAD_DATASET, detail=detail, field="teacher_accuracy"))
    low, high = measured.interval
    if spec.teacher_accuracy <= high:
        return
    detail = (
        f"the teacher reaches {measured.accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f} %) on the "
        f"{measured.samples} labelled samples of the {measured.split.word} split, less than the "
        f"{spec.teacher_accuracy:g} % that the request expects. The likely reason is the preprocessing. "
        f"{_to_check(dataset, spec.teacher.architecture)}"
    )
    raise Refused(JobError(type=ErrorType.TEACHER_BELOW_EXPECTED, detail=detail, field="teacher_accuracy"))


@torch.no_grad()
def predict(
    network: nn.Module, dataset: Dataset, split: Split, device: torch.device, batch: int = EVALUATION_BATCH
) -> Prediction:
    """The answers of a classifier in eval mode to a whole split. Its mode is restored."""
    arrays = dataset.splits[split]
    logits = []
    with evaluating(network):
        step = min(batch, EVALUATION_BATCH)
        for start in range(0, len(arrays.y), step):
            raw = arrays.x[start : start + step].to(device)
            logits.append(network(dataset.preprocessing.apply(raw)).float().cpu())
    return Prediction(torch.cat(logits), arrays.y)


def validation_drop(
    teacher: nn.Module, dataset: Dataset, device: torch.device, batch: int
) -> Callable[[nn.Module], float]:
    """Points of accuracy that a network loses against the teacher on at most `PREPARATION_SAMPLES` samples of the
    validation split; without labels there, points of agreement."""
    split, dataset = Split.VALIDATION, with_few(dataset)
    taught = cache(lambda: predict(teacher, dataset, split, device, batch))

    def drop(network: nn.Module) -> float:
        made = predict(network, dataset, split, device, batch)
        if dataset.splits[split].labelled:
            return top1(taught()) - top1(made)
        return 100 - agreement(made.logits, taught().logits)

    return drop


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode, and the same random numbers in every evaluation: the validation data of `compress` may draw some.

    Afterwards each module has the mode that it had before.
    """
    with in_eval_mode(network), seeded(0):
        yield


def _check_labels(spec: JobSpec, train: Arrays) -> None:
    if bool((train.y != NO_LABEL).any()):
        return
    if spec.method == Method.SCRATCH:
        raise DatasetError(
            "the training split has no labels, which method scratch needs: give labels, or use another method",
            field="method",
        )
    if spec.learns_labels:
        raise DatasetError(
            f"the training split has no labels, but alpha is {spec.alpha:g}: set alpha to 0 to learn from the teacher "
            "alone, or give labels",
            field="alpha",
        )


def _unlabelled(split: Split, arrays: Arrays) -> str:
    unlabelled = len(arrays.y) - arrays.labels
    chosen = ", and the best epoch was chosen by agreement with the teacher" if split == Split.VALIDATION else ""
    return (
        f"{unlabelled} of {len(arrays.y)} samples of the {split.word} split have no label: accuracies and calibration "
        f"error are null there{chosen}"
    )


def _at_chance(prediction: Prediction, split: Split, dataset: Dataset, teacher: Architecture) -> str:
    return f"{_measured(prediction, split)}: it is hardly better than guessing. {_to_check(dataset, teacher)}"


def _uncertain(prediction: Prediction, split: Split, dataset: Dataset, teacher: Architecture) -> str:
    return (
        f"{_measured(prediction, split)}: these samples don't show that it is better than guessing. Give more of them "
        f"with labels, of all classes. {_to_check(dataset, teacher)}"
    )


def _measured(prediction: Prediction, split: Split) -> str:
    return (
        f"the teacher reaches {top1(prediction):.1f} % on the {len(prediction.labels)} labelled samples of the "
        f"{split.word} split, where answers that have nothing to do with the labels reach {chance(prediction):.1f} %"
    )


def _to_check(dataset: Dataset, teacher: Architecture) -> str:
    return (
        f"Check that the preprocessing is the one that the teacher was trained with ({_described(dataset)}), and that "
        f"the class order (here {', '.join(dataset.classes[:10])}: dataset.class_order) is the order of its outputs"
        f"{_assumed(teacher)}"
    )


def _assumed(teacher: Architecture) -> str:
    """The options that the teacher's tensors don't show, and what was assumed."""
    return "".join(
        f". Its tensors don't show its {name}, which was assumed to be {teacher.options[name]}, one of "
        f"{', '.join(str(value) for value in values)} (teacher_options.{name})"
        for name, values in teacher.choices.items()
    )


def _described(dataset: Dataset) -> str:
    preprocessing = dataset.preprocessing
    if preprocessing.kind == "text":
        shown = (
            preprocessing.vocabulary if len(preprocessing.vocabulary) <= 100 else f"{preprocessing.vocabulary[:100]}…"
        )
        return (
            f"here length {preprocessing.length}, lowercase {preprocessing.lowercase}, vocabulary {shown!r}: "
            "dataset.length, dataset.lowercase, dataset.vocabulary"
        )
    mean, std = ([round(value, 4) for value in values] for values in (preprocessing.mean, preprocessing.std))
    return (
        f"here size {preprocessing.size}, resize {preprocessing.resize}, mean {mean}, std {std}: dataset.size, "
        "dataset.resize, dataset.mean, dataset.std"
    )
