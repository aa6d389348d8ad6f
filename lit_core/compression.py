"""`lit_core.compress`: a shallower network from any torch module and any iterable of batches, without a server."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.cost import count_parameters, flops, latencies
from lit_core.measuring.scores import Prediction, agreement, top1
from lit_core.networks.block_selection import Selection, select_blocks
from lit_core.networks.discovery import check_trains, find_layout
from lit_core.networks.sections import SectionedNetwork, has_batch_norm
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import parameters_with, shortened
from lit_core.tasks.classification import evaluating
from lit_core.training.checkpoint import Best, Checkpoint
from lit_core.training.loop import Observer, Training
from lit_core.training.objectives import Batch
from lit_core.training.pruning import check_prunable, parameters_left, prune_by, spared_of
from lit_core.training.task import Scores, Trainable
from lit_core.training.updaters import Program, distillation
from lit_spec import Hyperparameters, Method, Phase, Schedule, Select
from lit_spec.mistakes import mistakes
from lit_spec.networks.catalogue import evenly, shares
from lit_spec.requests.presets import merged, with_rates
from lit_spec.requests.resolve import resolve_schedule
from lit_spec.requests.then import INT8, prune_shares

IMPORTANCE_BATCHES = 8
METHODS = (Method.LIT, Method.KD, Method.AT)
OF_THE_SERVICE = {
    "n_random": "put inputs of noise into the data",
    "accept": "look at what the report says",
    "time_limit_s": "an observer can ask to stop",
    "max_attempts": "there is one attempt",
    "adversarial": "classifiers alone are trained here",
}
"""Hyperparameters that would be without effect, and what can be done instead."""

T = TypeVar("T", bound=Trainable)

Batches = Iterable[Any]
"""Of `(x, y)` or `x`: x (B, …) what the network takes, several of them in a tuple; y (B,) class numbers, -1 where there
is none."""


@dataclass(frozen=True)
class Compressed:
    student: nn.Module
    """In eval mode, on the device that it was trained on."""
    report: dict[str, Any]
    pruned: dict[str, nn.Module]
    """What each step of `then` made of the student."""


@dataclass(frozen=True)
class Made(Generic[T]):
    """A student, of its task, and how it came about."""

    task: T
    training: Training
    chosen: list[Best]
    """The epoch whose weights the student has, and what was chosen after each pruning step."""


def make_student(
    teacher: SectionedNetwork,
    blocks: Sequence[int],
    select: Select,
    seen: Iterable[tuple[Tensor, ...]],
    hyperparameters: Hyperparameters,
    observer: Observer,
    *,
    task_of: Callable[[SectionedNetwork, Selection], T],
    student_of: Callable[[SectionedNetwork, Sequence[Sequence[int]]], SectionedNetwork] = shortened,
    environment: Mapping[str, str] | None = None,
    checkpoint: Checkpoint | None = None,
    attempt: int = 1,
) -> Made[T]:
    """Choose the blocks, cut the teacher down to them and train what is left: what `compress` and the service's
    trainer both call.

    `seen` are inputs for `select` to look at, `task_of` says what the student is trained for, `student_of` how it
    begins. With a checkpoint all goes on from there. The student has the weights of its best epoch afterwards. Raises
    Diverged, and Drained when the observer asks to stop.
    """
    device = next(teacher.network.parameters()).device
    selection = select_blocks(teacher, blocks, select, seen) if checkpoint is None else checkpoint.selection
    student = student_of(teacher, selection.kept)
    student.network.to(device)
    task = task_of(student, selection)
    training = Training(
        hyperparameters, task, device, observer, selection=selection, environment=dict(environment or {})
    )
    if checkpoint is not None:
        training.restore(checkpoint, attempt)
    chosen = training.run()
    load_state(student.network, chosen[0].state)
    return Made(task, training, chosen)


def compress(
    model: nn.Module,
    data: Batches,
    *,
    blocks: Sequence[int] | None = None,
    depth: int | None = None,
    ratio: float | None = None,
    sections: Sequence[str | Sequence[str]] | None = None,
    select: Select | str = Select.EVEN,
    validation: Batches | None = None,
    device: torch.device | str | None = None,
    observer: Observer | None = None,
    **hyperparameters: Any,
) -> Compressed:
    """Train a student of `model` that has fewer blocks.

    `data` gives `(x, y)` batches with labels, or `x` alone with `alpha=0`. It is gone through once an epoch, and once
    before to count, unless `schedule` has `steps_per_epoch`: then it may be endless. What an iterator gives is kept in
    memory. Give `blocks` of each section, or `depth`, how many there are in all, or `ratio`, how many times fewer
    parameters at the least. `sections` are module paths (docs/models.md); None: found. With `validation`, of the same
    kind, the best epoch is kept; without, the last. `hyperparameters` are the fields of
    `lit_spec.Hyperparameters`: method, alpha, beta, tau, feed, schedule, `then=["prune:0.5"]`, … The model is left
    as it is. Raises NoSections for a model that can't be divided, ValueError for what doesn't fit, and Diverged.
    """
    if sum(value is not None for value in (blocks, depth, ratio)) != 1:
        raise ValueError("give one of blocks (as [2, 2, 2]), depth (as 6) and ratio (as 2.5)")
    how = _select(select)
    given = _validated_fields(hyperparameters).model_dump(exclude_unset=True)
    asked = _checked(merged(with_rates({}, given, batch_norm=has_batch_norm(model)), given), given)
    place = torch.device(device) if device is not None else next(model.parameters()).device
    data = _repeatable(data, asked.schedule)
    seen = _looked_at(data, "data", asked.schedule.steps_per_epoch)
    if asked.alpha > 0 and bool((seen.labels == NO_LABEL).all()):
        raise ValueError(f"the first batch has no labels, but alpha is {asked.alpha:g}: give labels, or alpha=0")
    if validation is not None:
        validation = _repeatable(validation)
        _looked_at(validation, "validation")
    asked = _with_steps(asked, seen.batches, len(seen.labels))
    inputs = tuple(x[:2].to(place) for x in seen.inputs)
    teacher = _teacher(model, place, inputs, sections or ())
    classes = _classes(teacher, inputs)
    if seen.least == 1:
        _check_lone_samples(teacher, inputs)
    if prune_shares(asked.then):
        check_prunable(teacher.network, asked.pruning, spared_of(teacher, asked.pruning, classes))
    wanted = _blocks(teacher, blocks, depth, ratio)
    looked = (tuple(x.to(place) for x in given) for given in _first_inputs(data))
    made = make_student(
        teacher,
        wanted,
        how,
        looked,
        asked,
        observer or Silent(),
        task_of=lambda student, _: IterableTask(asked, teacher, student, data, validation, seen.batches, classes),
    )
    student = made.task.student.network.eval()
    pruned = _pruned(made)
    return Compressed(student, _report(made, pruned, inputs), pruned)


class IterableTask:
    """A classifier's student, and batches as they come."""

    selection = "accuracy"

    def __init__(
        self,
        hyperparameters: Hyperparameters,
        teacher: SectionedNetwork,
        student: SectionedNetwork,
        data: Batches,
        validation: Batches | None,
        steps: int,
        classes: int,
    ) -> None:
        self.hyperparameters, self.teacher, self.student = hyperparameters, teacher, student
        self.data, self.validation, self.classes = data, validation, classes
        self.device = next(teacher.network.parameters()).device
        self.samples = steps * hyperparameters.schedule.batch_size
        self.masks: dict[str, Tensor] = {}
        self._iterator: Iterator[Any] = iter(())

    def supersedes(self, phase: Phase) -> bool:  # noqa: ARG002
        return self.validation is None

    def program(self, phase: Phase) -> Program:
        return distillation(self.hyperparameters, phase, self.teacher, self.student, self.masks)

    def prune(self, share: float) -> None:
        pruning = self.hyperparameters.pruning
        spared = spared_of(self.student, pruning, self.classes)
        self.masks = prune_by(self.student.network, share, pruning, spared)

    def batch(self, rows: Tensor, position: float, augmentation: torch.Generator, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """The next batch of the data, whatever `rows` says: order and augmentation are the data's own."""
        try:
            inputs, labels = _parted(next(self._iterator))
        except StopIteration:
            self._iterator = iter(self.data)
            inputs, labels = _parted(next(self._iterator))
        given = tuple(x.to(self.device) for x in inputs)
        return Batch(given, labels.to(self.device), position, generator)

    def score(self) -> Scores:
        if self.validation is None:
            return Scores(0.0, {})
        found = self.measure(self.student.network)
        teacher, student = found["teacher_accuracy"], found["student_accuracy"]
        metrics = {"agreement": found["agreement"]}
        if teacher is not None and student is not None:
            metrics |= {"teacher_accuracy": teacher, "student_accuracy": student}
        return Scores(found["agreement"] if student is None else student, metrics)

    @torch.no_grad()
    def measure(self, network: nn.Module) -> dict[str, Any]:
        """Percent on `validation`; accuracies are None where no sample has a label."""
        taught, made, truth = [], [], []
        with evaluating(network):
            for inputs, labels in map(_parted, self.validation or ()):
                given = tuple(x.to(self.device) for x in inputs)
                taught.append(self.teacher.network(*given).float().cpu())
                made.append(network(*given).float().cpu())
                truth.append(labels.cpu())
        logits, own, labels = torch.cat(taught), torch.cat(made), torch.cat(truth)
        known = labels != NO_LABEL
        labelled = bool(known.any())
        return {
            "agreement": agreement(own, logits),
            "teacher_accuracy": top1(Prediction(logits[known], labels[known])) if labelled else None,
            "student_accuracy": top1(Prediction(own[known], labels[known])) if labelled else None,
        }


class Silent:
    """Nobody asks, and nobody is told."""

    def epoch(self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float]) -> None:
        pass

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


def _select(select: Select | str) -> Select:
    if select not in list(Select):
        raise ValueError(f"select is {select!r}: give one of {', '.join(Select)}")
    return Select(select)


def _validated_fields(hyperparameters: Mapping[str, Any]) -> Hyperparameters:
    try:
        return Hyperparameters.model_validate(hyperparameters)
    except ValidationError as failure:
        found = mistakes(Hyperparameters, hyperparameters, failure)
        raise ValueError("; ".join(f"{mistake.field}: {mistake.message}" for mistake in found)) from failure


def _checked(hyperparameters: Mapping[str, Any], given: Mapping[str, Any]) -> Hyperparameters:
    """`given` are those that the caller names."""
    asked = Hyperparameters.model_validate(dict(hyperparameters))
    if asked.method not in METHODS:
        raise ValueError(f"method {asked.method} is for the service: here there are {', '.join(METHODS)}")
    for name, instead in OF_THE_SERVICE.items():
        if getattr(asked, name) != Hyperparameters.model_fields[name].default:
            raise ValueError(f"{name} is for the service: {instead}")
    if INT8 in asked.then:
        raise ValueError("int8 is for the service, which writes files: here then may have steps that prune")
    if "batch_size" in given.get("schedule", {}):
        raise ValueError("schedule.batch_size is for the service: batches are as the data gives them")
    return asked.model_copy(update={"schedule": resolve_schedule(asked.schedule, asked.method)})


@dataclass(frozen=True)
class Seen:
    """What going through the data once showed."""

    inputs: tuple[Tensor, ...]
    """Those of the first batch, and its labels."""
    labels: Tensor
    batches: int
    """In an epoch."""
    least: int
    """Samples in the smallest batch that was seen."""


def _repeatable(data: Batches, schedule: Schedule | None = None) -> Batches:
    """An iterator can be gone through once, so its batches are kept, of an endless one as many as are needed."""
    if not isinstance(data, Iterator):
        return data
    steps = None if schedule is None else schedule.steps_per_epoch
    epochs = 0 if schedule is None else schedule.lit.epochs + schedule.fine_tune.epochs
    return list(islice(data, None if steps is None else steps * epochs))


def _looked_at(data: Batches, name: str, steps_per_epoch: int | None = None) -> Seen:
    """Of data that may never end, the first batch. Raises ValueError."""
    first: tuple[tuple[Tensor, ...], Tensor] | None = None
    sizes = []
    for batch in islice(data, None if steps_per_epoch is None else 1):
        inputs, labels = _parted(batch)
        first = first or (inputs, labels)
        sizes.append(len(labels))
    if first is None or next(iter(data), None) is None:
        raise ValueError(f"{name} must give batches each time that it is gone through: a list or a DataLoader does")
    if min(sizes) == 0:
        raise ValueError(f"{name} has a batch without samples")
    return Seen(*first, steps_per_epoch or len(sizes), min(sizes))


def _teacher(
    model: nn.Module, device: torch.device, inputs: tuple[Tensor, ...], sections: Sequence[str | Sequence[str]]
) -> SectionedNetwork:
    """A frozen copy of the model. Raises NoSections, and ValueError for a model that can't be copied."""
    try:
        network = copy.deepcopy(model).to(device)
    except RuntimeError as failure:
        raise ValueError(
            f"the model can't be copied: {failure} (torch.nn.utils.weight_norm is such a case: "
            "torch.nn.utils.parametrizations.weight_norm can be copied)"
        ) from failure
    teacher = SectionedNetwork(network, find_layout(network, inputs, sections))
    teacher.freeze()
    return teacher


def _check_lone_samples(teacher: SectionedNetwork, inputs: tuple[Tensor, ...]) -> None:
    single = tuple(x[:1] for x in inputs)
    try:
        check_trains(teacher.network, *single)
        _classes(teacher, single)
    except ValueError as failure:
        raise ValueError(
            f"data has a batch of one sample, which the model can't be trained on ({failure}): drop_last=True of a "
            "DataLoader leaves it out"
        ) from failure


@torch.no_grad()
def _classes(teacher: SectionedNetwork, inputs: tuple[Tensor, ...]) -> int:
    """Raises ValueError for a model that puts out no logits."""
    output = teacher.network(*inputs)
    if isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point():
        return output.shape[1]
    shown = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ValueError(f"the model puts out {shown} in eval mode, not logits (B, classes): wrap it in a module that does")


def _first_inputs(data: Batches) -> Iterator[tuple[Tensor, ...]]:
    for batch in islice(data, IMPORTANCE_BATCHES):
        yield _parted(batch)[0]


def _with_steps(asked: Hyperparameters, steps: int, batch_size: int) -> Hyperparameters:
    """An epoch is a pass over the data, unless `schedule.steps_per_epoch` says otherwise."""
    update = {"batch_size": batch_size, "steps_per_epoch": asked.schedule.steps_per_epoch or steps}
    return asked.model_copy(update={"schedule": asked.schedule.model_copy(update=update)})


def _parted(batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs and labels. Raises ValueError."""
    if isinstance(batch, Tensor):
        return (batch,), torch.full((len(batch),), NO_LABEL)
    if isinstance(batch, Sequence) and len(batch) == 2:
        x, y = batch
        inputs = (x,) if isinstance(x, Tensor) else tuple(x) if isinstance(x, Sequence) else ()
        if inputs and _are_alike([*inputs, y]) and y.ndim == 1 and not y.is_floating_point():
            return inputs, y.long()
    raise ValueError("a batch must be x, or (x, y) with y (B,) of class numbers; several inputs are a tuple x")


def _are_alike(parts: Sequence[Any]) -> bool:
    """Tensors of as many samples."""
    return all(isinstance(part, Tensor) and part.ndim > 0 for part in parts) and len({len(part) for part in parts}) == 1


def _blocks(
    teacher: SectionedNetwork, blocks: Sequence[int] | None, depth: int | None, ratio: float | None
) -> list[int]:
    whole = [len(section) for section in teacher.sections]
    if blocks is not None:
        if len(blocks) != len(whole) or any(not 1 <= own <= most for own, most in zip(blocks, whole, strict=False)):
            raise ValueError(f"blocks must say for each section how many of its blocks stay: the model has {whole}")
        if list(blocks) == whole:
            raise ValueError(f"blocks are {whole}, all that the model has: use fewer in a section")
        return list(blocks)
    if depth is not None:
        if not len(whole) <= depth < sum(whole):
            raise ValueError(
                f"depth is {depth}, but a student of the model {whole} has {len(whole)} to {sum(whole) - 1}"
            )
        return shares(whole, depth)
    if ratio is None or not ratio > 1:
        raise ValueError(f"ratio is {ratio}: it must be greater than 1, how many times fewer parameters")
    total, left = count_parameters(teacher.network), 0
    for least in range(sum(whole) - 1, len(whole) - 1, -1):
        wanted = shares(whole, least)
        left = parameters_with(teacher, [evenly(count, own) for count, own in zip(whole, wanted, strict=True)])
        if total >= ratio * left:
            return wanted
    raise ValueError(f"ratio is {ratio:g}, more than the shallowest student reaches: {total / left:.3f}")


def _pruned(made: Made[IterableTask]) -> dict[str, nn.Module]:
    task = made.task
    networks = {}
    for step, best in zip(task.hyperparameters.then, made.chosen[1:], strict=True):
        # Of the teacher, since what was trained may hold tensors that can't be copied.
        network = shortened(task.teacher, task.student.kept).network
        load_state(network, best.state)
        networks[step] = network.eval()
    return networks


def _report(made: Made[IterableTask], pruned: Mapping[str, nn.Module], inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    task, training, selection = made.task, made.training, made.training.selection
    networks = {"teacher": task.teacher, "student": task.student}
    single = tuple(x[:1] for x in inputs)
    times = latencies([one.network for one in networks.values()], single)
    measured: dict[str, dict[str, Any]] = {
        name: {
            "blocks": [len(section) for section in network.sections],
            "parameters": count_parameters(network.network),
            "flops": flops(network.network, single),
            "latency_ms": time.p50_ms,
        }
        for (name, network), time in zip(networks.items(), times, strict=True)
    }
    ratios = {
        name: round(measured["teacher"][name] / measured["student"][name], 4)
        for name in ("parameters", "flops", "latency_ms")
    }
    return {
        **measured,
        "ratios": ratios,
        "sections": [list(paths) for paths in task.teacher.layout.sections],
        "selection": {"kept": selection.kept, "importance": selection.importance},
        "validation": _validated(task, task.student.network),
        "then": [
            {
                "step": step,
                "parameters": (left := parameters_left(network)),
                "parameters_ratio": round(measured["teacher"]["parameters"] / left, 4),
                "validation": _validated(task, network),
                "epoch": best.epoch,
            }
            for (step, network), best in zip(pruned.items(), made.chosen[1:], strict=True)
        ],
        "epochs": training.epochs,
        "hyperparameters": task.hyperparameters.model_dump(mode="json"),
    }


def _validated(task: IterableTask, network: nn.Module) -> dict[str, Any] | None:
    return None if task.validation is None else task.measure(network)
