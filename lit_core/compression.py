"""`lit_core.compress`: a shallower network from any torch module and any iterable of batches, without a server."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.arguments import Wish, hyperparameters_of, kept_blocks, wanted_blocks, wish_of
from lit_core.compressed import Compressed, Origin
from lit_core.data.labels import NO_LABEL
from lit_core.measuring.cost import ratio_of
from lit_core.model import Model
from lit_core.networks.block_selection import Selection
from lit_core.networks.discovery import check_composition, check_trains, find_layout
from lit_core.networks.recognition import shapes_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shortened
from lit_core.progress import Callback, watched
from lit_core.report import CompressionReport, PruningReport, compare_networks, race_notes, selection_report
from lit_core.seeding import seeded
from lit_core.selection.blocks import select_blocks
from lit_core.selection.repair import with_repair
from lit_core.selection.targets import Measurements, select_for_target
from lit_core.tasks.batches import (
    Batches,
    FirstBatch,
    IterableTask,
    check_labels,
    look_through,
    repeatable,
    split_batch,
    validation_drop,
)
from lit_core.training.checkpoint import Checkpoint
from lit_core.training.loop import Observer, TrainedStudent, train_student
from lit_core.training.outcome import Judgement
from lit_core.training.pruning import check_prunable, parameters_left, spared_of
from lit_core.training.setbacks import note_of
from lit_spec import Hyperparameters, Method, Output, Phase, Select
from lit_spec.requests.presets import Preset
from lit_spec.requests.then import prune_shares
from lit_spec.trainer.messages import Progress

IMPORTANCE_BATCHES = 8
NOT_VALIDATED = (
    "the student has the weights of the last epoch, and was not compared with the untrained one: give validation data "
    "to keep the best epoch, and to learn whether the training was of use"
)
NOT_RACED = (
    "no other method and no higher learning rate was tried, because there is no validation data to compare them on; "
    "small networks need higher rates than large ones"
)


def compress(
    model: nn.Module,
    data: Batches,
    *,
    blocks: Sequence[int] | None = None,
    depth: int | None = None,
    ratio: float | None = None,
    kept: Sequence[Sequence[int]] | None = None,
    target: Mapping[str, Any] | None = None,
    sections: Sequence[str | Sequence[str]] | None = None,
    select: Select | str | None = None,
    repair: bool | None = None,
    validation: Batches | None = None,
    preset: Preset | str | None = None,
    device: torch.device | str | None = None,
    observer: Observer | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **hyperparameters: Any,
) -> Compressed:
    """Train a student of `model` that has fewer blocks.

    `data` gives `(x, y)` batches with labels, or `(x,)` or `x` only if `alpha=0`. It is iterated over once per epoch,
    before that once to count the batches, and its first batches when blocks are chosen, when the student is repaired,
    and by each candidate of a `race`. With `steps_per_epoch` in the `schedule` it may be endless. Batches of an
    iterator are stored in memory. Give one of `blocks` (of each section), `depth` (blocks in all), `ratio` (how many
    times fewer parameters, at least), `target` (as {"latency_ratio": 1.5}: the fields of `lit_spec.Target`) and `kept`
    (of each section the indices of the blocks that stay, from 0). Unless `kept` names them, `select` chooses the
    blocks: "recover" (the default), "even", "first" or "importance". With `repair` the training begins with the
    repaired student, if that is closer to the model; None: with "recover". `sections` are module paths
    (docs/models.md); None: they are found. With `validation`, data of the same kind, the best epoch gives the student,
    and that may be epoch 0, the untrained or repaired one; without it the last epoch does, and nobody knows whether it
    is better than the untrained student.
    With `output="embedding"` the model's output is an embedding (B, D), of which the direction counts.
    `hyperparameters` are the fields of `lit_spec.Hyperparameters`: method, alpha, beta, tau, feed, schedule,
    `then=["prune:0.5"]`, … `preset` ("few", "quick" or "paper", docs/models.md) sets those that are not given. A model
    with one output is a binary classifier, and its output the logit of class 1. The model itself does not change; it
    may be one that `load` has read.
    While it trains, `progress` shows a bar of tqdm (None: on a terminal and in a notebook, if tqdm is installed), and
    each of `callbacks` is called with the metrics of every epoch: `on_epoch(done)`. What it raises ends the training.
    `seed` decides all random numbers: the global generators of torch (CPU and CUDA), Python and numpy are seeded from
    it, and have their old states afterwards. Raises NoSections for a model that can't be divided, ValueError for wrong
    arguments, and Diverged.
    """
    wish = wish_of(
        blocks=blocks,
        depth=depth,
        ratio=ratio,
        kept=kept,
        target=target,
        select=select,
        repair=repair,
        validated=validation is not None,
    )
    config = model.config if isinstance(model, Model) else None
    model = model.network if isinstance(model, Model) else model
    asked = hyperparameters_of(model, preset, hyperparameters)
    place = torch.device(device) if device is not None else next(model.parameters()).device
    if place.type == "cuda":
        # Before that it has no generators whose states could be kept.
        torch.cuda.init()  # type: ignore[no-untyped-call]
    with seeded(asked.seed):
        given = _given_data(data, validation, asked)
        first = given.first
        asked = _with_steps(_with_mixing(asked, first, "mixing" in hyperparameters), first.batches, len(first.labels))
        inputs = tuple(x[:2].to(place) for x in first.inputs)
        teacher = _teacher(model, place, inputs, sections or ())
        outputs = _outputs(teacher, inputs)
        _check(teacher, inputs, outputs, given, asked)
        with watched(observer or SilentObserver(), callbacks, progress, _epochs(asked)) as watching:
            selection = _selection(wish, teacher, given, inputs, outputs, asked)
            student = shortened(teacher, selection.kept_blocks)
            task = IterableTask(asked, teacher, student, given.training, given.validation, first.batches, outputs)
            trained = train_student(task, asked, watching, selection=selection)
        network = student.network.eval()
        pruned = _pruned_networks(trained)
        report = _report(trained, wish.select, pruned, inputs).as_json()
        origin = Origin(shapes_of(model), config, inputs, outputs, given.training, given.validation)
        return Compressed(network, report, pruned, origin)


def _epochs(asked: Hyperparameters) -> int:
    """Of the whole training."""
    pruning = len(prune_shares(asked.then)) * asked.schedule.of(Phase.PRUNE).epochs
    return asked.schedule.lit.epochs + asked.schedule.fine_tune.epochs + pruning


class SilentObserver:
    """Ignores everything and never stops the training."""

    def epoch(
        self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float], steps: int
    ) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


@dataclass(frozen=True)
class _GivenData:
    """What the caller gave. It can be iterated over any number of times."""

    training: Batches
    first: FirstBatch
    validation: Batches | None
    first_of_validation: FirstBatch | None


def _given_data(data: Batches, validation: Batches | None, asked: Hyperparameters) -> _GivenData:
    """Raises ValueError for data that can't be used, whatever the model is."""
    training = repeatable(data, asked.schedule)
    first = look_through(training, "data", asked.schedule)
    if asked.learns_labels and bool((first.labels == NO_LABEL).all()):
        raise ValueError(f"the first batch has no labels, but alpha is {asked.alpha:g}: give labels, or alpha=0")
    if validation is None:
        return _GivenData(training, first, None, None)
    held_out = repeatable(validation)
    return _GivenData(training, first, held_out, look_through(held_out, "validation"))


def _teacher(
    model: nn.Module, device: torch.device, inputs: tuple[Tensor, ...], sections: Sequence[str | Sequence[str]]
) -> SectionedNetwork:
    """A frozen copy of the model. Raises NoSections, and ValueError for a model that can't be copied."""
    try:
        network = copy.deepcopy(model).to(device)
    except RuntimeError as failure:
        raise ValueError(
            f"the model can't be copied: {failure} (instead of torch.nn.utils.weight_norm use "
            "torch.nn.utils.parametrizations.weight_norm, which can be copied)"
        ) from failure
    teacher = SectionedNetwork(network, find_layout(network, inputs, sections))
    teacher.freeze()
    return teacher


def _check(
    teacher: SectionedNetwork,
    inputs: tuple[Tensor, ...],
    outputs: int,
    given: _GivenData,
    asked: Hyperparameters,
) -> None:
    """Raises ValueError where model, data and hyperparameters don't fit together."""
    if asked.output == Output.LOGITS:
        check_labels(given.first.extreme_labels, outputs, "data")
        if given.first_of_validation is not None:
            check_labels(given.first_of_validation.extreme_labels, outputs, "validation")
    if asked.method == Method.LIT and asked.beta < 1:
        # Other methods run only whole networks.
        check_composition(teacher, *inputs)
    if given.first.smallest_batch == 1:
        _check_single_samples(teacher, inputs)
    if prune_shares(asked.then):
        check_prunable(teacher.network, asked.pruning, spared_of(teacher, asked.pruning, outputs))


def _check_single_samples(teacher: SectionedNetwork, inputs: tuple[Tensor, ...]) -> None:
    single = tuple(x[:1] for x in inputs)
    try:
        check_trains(teacher.network, *single)
        _outputs(teacher, single)
    except ValueError as failure:
        raise ValueError(
            f"data has a batch of one sample, on which the model can't be trained ({failure}): use drop_last=True in "
            "the DataLoader"
        ) from failure


@torch.no_grad()
def _outputs(teacher: SectionedNetwork, inputs: tuple[Tensor, ...]) -> int:
    """The number of outputs. Raises ValueError if the model's output is not logits."""
    output = teacher.network(*inputs)
    if isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point():
        return output.shape[1]
    shown = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ValueError(
        f"the model's output in eval mode is {shown}, not logits (B, classes) or an embedding (B, D): wrap it in a "
        "module that returns one of them"
    )


def _selection(
    wish: Wish,
    teacher: SectionedNetwork,
    given: _GivenData,
    inputs: tuple[Tensor, ...],
    outputs: int,
    asked: Hyperparameters,
) -> Selection:
    """The student's blocks, and its repaired weights if it is to be repaired. `inputs` are two samples, on the
    teacher's device. Raises ValueError for a student that this model can't have."""
    looks_at_data = wish.repairs or wish.select in (Select.RECOVER, Select.IMPORTANCE)
    batches = [
        tuple(x.to(inputs[0].device) for x in batch)
        for batch in (_first_inputs(given.training) if looks_at_data else ())
    ]
    if wish.select is None:
        selection = kept_blocks(teacher, wish.kept or (), inputs)
    elif wish.target is None:
        selection = select_blocks(
            teacher, wanted_blocks(teacher, wish.blocks, wish.depth), wish.select, batches, asked.output
        )
    else:
        measurements = Measurements(
            sample=lambda batch: tuple(_repeated(x, batch) for x in inputs),
            precision=asked.precision,
            drop=lambda network: validation_drop(
                teacher.network, network, given.validation or (), outputs, asked.output
            ),
        )
        target, field = wish.target.target, wish.target.field
        selection = select_for_target(teacher, target, wish.select, batches, measurements, field, asked.output)
    return with_repair(selection, teacher, batches, asked.output) if wish.repairs else selection


def _repeated(x: Tensor, batch: int) -> Tensor:
    """A batch of this size of the first sample."""
    return x[:1].repeat(batch, *[1] * (x.ndim - 1))


def _first_inputs(data: Batches) -> Iterator[tuple[Tensor, ...]]:
    for batch in islice(data, IMPORTANCE_BATCHES):
        yield split_batch(batch)[0]


def _with_steps(asked: Hyperparameters, steps: int, batch_size: int) -> Hyperparameters:
    """An epoch is one pass over the data, unless `schedule.steps_per_epoch` is given."""
    update = {"batch_size": batch_size, "steps_per_epoch": asked.schedule.steps_per_epoch or steps}
    return asked.model_copy(update={"schedule": asked.schedule.model_copy(update=update)})


def _with_mixing(asked: Hyperparameters, first: FirstBatch, is_given: bool) -> Hyperparameters:
    """A preset's mixing is left out where the inputs are not numbers that can be mixed. Raises ValueError."""
    if asked.mixing == 0 or all(x.is_floating_point() for x in first.inputs):
        return asked
    if is_given:
        raise ValueError("mixing is for inputs of floats, but the data has integers: leave it out")
    return asked.model_copy(update={"mixing": 0.0})


def _pruned_networks(trained: TrainedStudent[IterableTask]) -> dict[str, nn.Module]:
    task = trained.task
    networks = {}
    for operation, best in zip(task.hyperparameters.then, trained.chosen[1:], strict=True):
        # Cut from the teacher again, because the trained student may hold tensors that can't be copied.
        network = shortened(task.teacher, task.student.kept_blocks).network
        load_state(network, best.state)
        networks[operation] = network.eval()
    return networks


def _report(
    trained: TrainedStudent[IterableTask],
    select: Select | None,
    pruned: Mapping[str, nn.Module],
    inputs: tuple[Tensor, ...],
) -> CompressionReport:
    task = trained.task
    teacher, student, ratios = compare_networks(task.teacher, task.student, tuple(x[:1] for x in inputs))
    operations = []
    for (operation, network), best in zip(pruned.items(), trained.chosen[1:], strict=True):
        left = parameters_left(network)
        operations.append(
            PruningReport(
                step=operation,
                parameters=left,
                parameters_ratio=ratio_of(teacher.parameters, left),
                validation=_validated(task, network),
                epoch=best.epoch,
            )
        )
    baselines, judgement = _before_and_after(trained)
    return CompressionReport(
        teacher=teacher,
        student=student,
        ratios=ratios,
        sections=[list(paths) for paths in task.teacher.layout.sections],
        selection=selection_report(trained.selection, select),
        validation=_validated(task, task.student.network),
        baselines=baselines,
        outcome=judgement.outcome,
        setbacks=trained.setbacks,
        race=trained.race,
        notes=[*race_notes(trained, task.hyperparameters), *map(note_of, trained.setbacks), *judgement.notes],
        then=operations,
        epochs=trained.epochs,
        hyperparameters=task.hyperparameters.model_dump(mode="json"),
    )


def _before_and_after(
    trained: TrainedStudent[IterableTask],
) -> tuple[dict[str, dict[str, float | None]] | None, Judgement]:
    """The scores of the untrained student and of the repaired one, and what the training made of it."""
    task = trained.task
    if task.validation is None:
        raced = [] if trained.race is None else [NOT_RACED]
        return None, Judgement(None, [NOT_VALIDATED, *raced])
    # Cut from the teacher again, because the trained student may hold tensors that can't be copied.
    network = shortened(task.teacher, task.student.kept_blocks).network
    states = {"untrained": trained.untrained, "repaired": trained.selection.repaired}
    baselines = {}
    for name, state in states.items():
        if state is not None:
            load_state(network, state)
            baselines[name] = task.measure(network)
    return baselines, task.judge(task.student.network, baselines["untrained"], trained.chosen[0])


def _validated(task: IterableTask, network: nn.Module) -> dict[str, float | None] | None:
    return None if task.validation is None else task.measure(network)
