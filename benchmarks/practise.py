"""PRACTISE: which blocks to drop, and feature mimicking afterwards, from a few inputs without labels.

The method is that of Wang and Wu, "Practical Network Acceleration with Tiny Sets", CVPR 2023 (arXiv 2202.07861), with
the settings of its published code (DoctorKey/Practise). The paper knows ResNets and MobileNets; here any network that
LIT divides into sections will do. For transformer encoders the paper has no such procedure: the adaptors are linear
layers there, at the places that correspond.

1. Each block that can be left out is left out by itself. Adaptors around the gap are trained so that the features
   before global pooling are the teacher's. The mean squared error that remains is the block's recoverability.
2. The blocks with the lowest score = recoverability / reduction of the latency are dropped.
3. The student is trained to have the teacher's features (MiR), its classifier untouched.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.adaptors import Gap, adaptors_around
from lit_core.networks.block_selection import first_blocks_stay
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.seeding import generator_of, seeded

LATENCY_WARM_UP, LATENCY_RUNS = 2, 11
"""Forward passes."""

Inputs = tuple[Tensor, ...]
Batches = Iterable[Tensor | Inputs | list[Tensor]]
Block = tuple[int, int]
"""Section and index."""
Augmentation = Callable[[Inputs, torch.Generator], Inputs]
Loss = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Recipe:
    """The settings of the published code."""

    iterations: int = 2000
    """Of the adaptors of each block."""
    fine_tuning_iterations: int = 2000
    learning_rate: float = 0.02
    """Of the adaptors. It is divided by ten after 40 % of the iterations, as the next one is."""
    fine_tuning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    training_mode: bool = True
    """In fine-tuning: BatchNorm uses and updates batch statistics, and dropout is on, as published. False: neither."""
    fold_adaptors: bool = False
    """Train adaptors around all gaps together, and fold them into the student before fine-tuning. The published code
    throws the adaptors away, and fine-tunes from the dropped blocks."""
    first_blocks: bool = False
    """Whether the first block of a section can be dropped too, where it keeps the shape. In the published code it
    stays."""
    seed: int = 0
    positions: Callable[[Inputs], Tensor] | None = None
    """From the inputs of a batch a mask that is 1 where features count, as (B, L) for features (B, L, D): without it
    the padding of texts counts as well."""


@dataclass(frozen=True)
class Candidate:
    section: int
    block: int
    damage: float
    """Mean squared error of the features without the block."""
    recoverability: float
    """The same after the adaptors were trained."""
    reduction: float
    """Of the latency, in percent."""

    @property
    def score(self) -> float:
        """The lower, the better it is to drop the block."""
        found = self.recoverability / self.reduction
        return found if math.isfinite(found) else math.inf


@dataclass(frozen=True)
class Practised:
    student: nn.Module
    """The teacher's own classes with fewer blocks, in eval mode."""
    kept: list[list[int]]
    """For each section the teacher's blocks that stay."""
    candidates: list[Candidate]


@dataclass
class TensorBatches:
    """Batches of tensors (N, …) in random order, another one in each pass. A batch that is not full is left out."""

    tensors: Inputs
    batch_size: int = 64
    seed: int = 0
    augmentation: Augmentation | None = None
    _passes: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Inputs]:
        generator = generator_of("batches", self.seed, self._passes)
        self._passes += 1
        count = len(self.tensors[0])
        order = torch.randperm(count, generator=generator)
        for start in range(0, max(count - self.batch_size, 0) + 1, self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = tuple(tensor[rows] for tensor in self.tensors)
            yield batch if self.augmentation is None else self.augmentation(batch, generator)


def practise(
    teacher: SectionedNetwork, drop: int, training: Batches, measuring: Batches, recipe: Recipe | None = None
) -> Practised:
    """A student of the teacher with `drop` blocks fewer.

    `training` gives augmented batches of inputs, as many times as it is iterated over; `measuring` the same inputs as
    they are. The teacher is in eval mode afterwards, without gradients.
    """
    recipe = recipe or Recipe()
    candidates = rated_blocks(teacher, training, measuring, recipe)
    kept = blocks_to_keep(teacher, candidates, drop)
    return Practised(mimicking_student(teacher, kept, training, recipe), kept, candidates)


def rated_blocks(
    teacher: SectionedNetwork,
    training: Batches,
    measuring: Batches,
    recipe: Recipe,
    reductions: Mapping[Block, float] | None = None,
) -> list[Candidate]:
    """Each block that can be dropped. `reductions` of the latency in percent are measured if they are not given."""
    teacher.freeze()
    sample = first_batch(teacher, measuring)
    if reductions is None:
        reductions = latency_reductions(teacher, sample)
    candidates = []
    for section, block in droppable_blocks(teacher, sample, first_blocks=recipe.first_blocks):
        student = _without(teacher, section, block)
        damage = _remaining_loss(teacher, student, measuring, recipe)
        _train_adaptors(teacher, student, training, sample, recipe)
        recoverability = _remaining_loss(teacher, student, measuring, recipe)
        candidates.append(Candidate(section, block, damage, recoverability, reductions[section, block]))
    return candidates


@torch.no_grad()
def latency_reductions(teacher: SectionedNetwork, sample: Inputs) -> dict[Block, float]:
    """By block, the share of the teacher's latency on this batch that is spent in it, in percent.

    The median of several forward passes. The published code compares the latencies of two networks; a share varies
    less on a machine that does other work at the same time.
    """
    entered: dict[Block, float] = {}
    spent: dict[Block, float] = {}
    shares: dict[Block, list[float]] = {}
    handles = []
    for block, module in _blocks(teacher).items():
        handles.append(module.register_forward_pre_hook(partial(_note_entry, entered, block, sample)))
        handles.append(module.register_forward_hook(partial(_note_exit, spent, entered, block, sample)))
    try:
        for number in range(LATENCY_WARM_UP + LATENCY_RUNS):
            start = _now(sample)
            teacher.network(*sample)
            whole = _now(sample) - start
            for block, seconds in spent.items() if number >= LATENCY_WARM_UP else ():
                shares.setdefault(block, []).append(100 * seconds / whole)
    finally:
        for handle in handles:
            handle.remove()
    return {block: statistics.median(found) for block, found in shares.items()}


def droppable_blocks(teacher: SectionedNetwork, sample: Inputs, *, first_blocks: bool = False) -> list[Block]:
    stay = first_blocks_stay(teacher, sample)
    return [
        (section, block)
        for section, blocks in enumerate(teacher.sections)
        if len(blocks) > 1
        for block in range(int(stay[section] or not first_blocks), len(blocks))
    ]


def blocks_to_keep(teacher: SectionedNetwork, candidates: Sequence[Candidate], drop: int) -> list[list[int]]:
    """Of each section what is left without the `drop` candidates of the lowest scores. Each section keeps a block."""
    kept = [list(range(len(section))) for section in teacher.sections]
    dropped = 0
    for candidate in sorted(candidates, key=lambda one: (one.score, one.section, one.block)):
        if dropped < drop and len(kept[candidate.section]) > 1:
            kept[candidate.section].remove(candidate.block)
            dropped += 1
    if dropped < drop:
        raise ValueError(f"drop is {drop}, but only {dropped} blocks can be left out: drop fewer")
    return kept


def mimicking_student(
    teacher: SectionedNetwork, kept: Sequence[Sequence[int]], training: Batches, recipe: Recipe
) -> nn.Module:
    """The student that keeps these blocks, trained on the teacher's features. In eval mode."""
    teacher.freeze()
    student = shortened(teacher, kept)
    sample = first_batch(teacher, training)
    if recipe.fold_adaptors:
        learning = {name for name, parameter in student.network.named_parameters() if parameter.requires_grad}
        student.freeze()
        _train_adaptors(teacher, student, training, sample, recipe)
        for name, parameter in student.network.named_parameters():
            parameter.requires_grad_(name in learning)
    with seeded(recipe.seed), _feature_loss(teacher, student, sample, recipe) as loss:
        student.network.train(recipe.training_mode)
        parameters = [parameter for parameter in student.network.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError("no parameter of the teacher has a gradient: build it without requires_grad_(False)")
        iterations, rate = recipe.fine_tuning_iterations, recipe.fine_tuning_rate
        _train(student.network, parameters, loss, training, iterations, rate, recipe)
    return student.network.eval()


def _blocks(teacher: SectionedNetwork) -> dict[Block, nn.Module]:
    return {(n, index): block for n, section in enumerate(teacher.sections) for index, block in enumerate(section)}


def _now(sample: Inputs) -> float:
    if sample[0].is_cuda:
        torch.cuda.synchronize(sample[0].device)
    return time.perf_counter()


def _note_entry(entered: dict[Block, float], block: Block, sample: Inputs, *_called: object) -> None:
    entered[block] = _now(sample)


def _note_exit(
    spent: dict[Block, float], entered: dict[Block, float], block: Block, sample: Inputs, *_called: object
) -> None:
    spent[block] = _now(sample) - entered[block]


def _without(teacher: SectionedNetwork, section: int, block: int) -> SectionedNetwork:
    kept = [list(range(len(blocks))) for blocks in teacher.sections]
    kept[section].remove(block)
    student = shortened(teacher, kept)
    student.freeze()
    return student


def _train_adaptors(
    teacher: SectionedNetwork, student: SectionedNetwork, training: Batches, sample: Inputs, recipe: Recipe
) -> None:
    """Train adaptors around all gaps of a frozen student, and fold them."""
    adaptors = adaptors_around(student, _gaps(teacher, student), tuple(x[:1] for x in sample))
    if not len(adaptors):
        return
    with seeded(recipe.seed), _feature_loss(teacher, student, sample, recipe) as loss:
        iterations, rate = recipe.iterations, recipe.learning_rate
        _train(student.network, adaptors.parameters(), loss, training, iterations, rate, recipe)
    adaptors.fold()


def _gaps(teacher: SectionedNetwork, student: SectionedNetwork) -> list[Gap]:
    return [
        Gap(section, sum(other < block for other in kept))
        for section, (blocks, kept) in enumerate(zip(teacher.sections, student.kept_blocks, strict=True))
        for block in range(len(blocks))
        if block not in kept
    ]


def _train(
    network: nn.Module,
    parameters: list[nn.Parameter],
    loss: Loss,
    training: Batches,
    iterations: int,
    rate: float,
    recipe: Recipe,
) -> None:
    optimizer = torch.optim.SGD(parameters, rate, recipe.momentum, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(int(0.4 * iterations), 1))
    batches = endless(training, network)
    for _ in range(iterations):
        optimizer.zero_grad()
        loss(next(batches)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _remaining_loss(teacher: SectionedNetwork, student: SectionedNetwork, measuring: Batches, recipe: Recipe) -> float:
    total, samples = 0.0, 0
    with _feature_loss(teacher, student, first_batch(teacher, measuring), recipe) as loss:
        for batch in measuring:
            inputs = on_device(batch, student.network)
            total += float(loss(inputs)) * len(inputs[0])
            samples += len(inputs[0])
    return total / samples


@contextmanager
def _feature_loss(
    teacher: SectionedNetwork, student: SectionedNetwork, sample: Inputs, recipe: Recipe
) -> Iterator[Loss]:
    """The mean squared error of the student's features. Both networks are in eval mode at first."""
    with _Features(teacher.network, sample) as taught, _Features(student.network.eval(), sample) as made:

        def loss(inputs: Inputs) -> Tensor:
            with torch.no_grad():
                wanted = taught.of(inputs)
            error = (made.of(inputs) - wanted).square()
            if recipe.positions is None:
                return error.mean()
            counts = recipe.positions(inputs).to(error)
            counts = counts.reshape(counts.shape + (1,) * (error.ndim - counts.ndim)).expand_as(error)
            return (error * counts).sum() / counts.sum()

        yield loss


class _Features:
    """The features before global pooling of a network."""

    def __init__(self, network: nn.Module, sample: Inputs) -> None:
        self.network = network
        self._module = _before_pooling(network, sample)

    def __enter__(self) -> _Features:
        self._handle = self._module.register_forward_hook(self._save)
        return self

    def __exit__(self, *_error: object) -> None:
        self._handle.remove()

    def _save(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        self._output = output

    def of(self, inputs: Inputs) -> Tensor:
        self.network(*inputs)
        return self._output


@torch.no_grad()
def _before_pooling(network: nn.Module, sample: Inputs) -> nn.Module:
    """The module with parameters that is the last to give an output (B, C, …) and has several positions there or in its
    input; without such a one, the last to give such an output. Raises ValueError if no module does."""
    found: dict[bool, nn.Module] = {}

    def save(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim > 2:
            # The input too, because a small image may have a single position before it is pooled.
            found[any(_has_positions(tensor) for tensor in (output, *args[:1]))] = module

    with_parameters = [module for module in network.modules() if any(True for _ in module.parameters())]
    handles = [module.register_forward_hook(save) for module in with_parameters if module is not network]
    try:
        network(*(x[:1] for x in sample))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError("the network has no features (B, C, …) before its head: PRACTISE can't be used on it")
    return found[True in found]


def _has_positions(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and math.prod(tensor.shape[2:]) > 1


def endless(batches: Batches, network: nn.Module) -> Iterator[Inputs]:
    while True:
        for batch in batches:
            yield on_device(batch, network)


def first_batch(teacher: SectionedNetwork, batches: Batches) -> Inputs:
    return on_device(next(iter(batches)), teacher.network)


def on_device(batch: Tensor | Inputs | list[Tensor], network: nn.Module) -> Inputs:
    device = next(network.parameters()).device
    tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
    return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)
