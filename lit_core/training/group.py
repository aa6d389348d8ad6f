"""The processes that train one student together. A process that trains alone is a group of one.

Each process makes the whole batch of a step and runs its own rows of it. The gradients are then summed over the group,
weighted by rows, so every process takes the step that one process alone would take. What is measured, for example on
the validation split, is measured by the first process alone, and the others take it over. A sharded teacher is run by
all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lit_core.training.batch import Batch
from lit_core.training.batch_statistics import WholeBatchStatistics

BUCKET_BYTES = 25 << 20
"""Gradients are summed in pieces of about this size, as in DistributedDataParallel."""

T = TypeVar("T")


class Group(Protocol):
    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    def share_of(self, batch: Batch) -> Batch:
        """This process's rows of a step's batch."""

    def any_wants(self, own: bool) -> bool:
        """Whether a process wants something that all must do together; `own` is this one's wish."""

    def from_first(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the first process, the only one that calls it: plain values and tensors."""

    def same_weights(self, network: nn.Module) -> None:
        """Give the network the weights and buffers that it has in the first process."""


class Alone:
    """One process."""

    size, rank = 1, 0

    def share_of(self, batch: Batch) -> Batch:
        return batch

    def any_wants(self, own: bool) -> bool:
        return own

    def from_first(self, compute: Callable[[], T]) -> T:
        return compute()

    def same_weights(self, network: nn.Module) -> None:
        """It has them."""


ALONE = Alone()


class Ranks:
    """All processes of torch's default process group, which must exist."""

    def __init__(self) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()

    def share_of(self, batch: Batch) -> Batch:
        """In a batch with fewer rows than there are processes each process has all rows."""
        samples = len(batch.labels)
        if samples < self.size:
            return replace(batch, share=Slice(samples, slice(0, samples), 1 / self.size, copies=self.size))
        rows = slice(samples * self.rank // self.size, samples * (self.rank + 1) // self.size)
        return replace(
            batch,
            inputs=tuple(x[rows] for x in batch.inputs),
            labels=batch.labels[rows],
            samples=batch.samples and batch.samples.at(rows),
            share=Slice(samples, rows, (rows.stop - rows.start) / samples),
        )

    def any_wants(self, own: bool) -> bool:
        wishes = torch.tensor([own], dtype=torch.uint8)
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        return bool(wishes.item())

    def from_first(self, compute: Callable[[], T]) -> T:
        # Not torch's own broadcast of objects, which unpickles whatever comes.
        packed = io.BytesIO()
        if self.rank == 0:
            torch.save(compute(), packed)
        size = torch.tensor([len(packed.getbuffer())])
        dist.broadcast(size, src=0)
        data = torch.empty(int(size.item()), dtype=torch.uint8)
        if self.rank == 0:
            data.copy_(torch.frombuffer(packed.getbuffer(), dtype=torch.uint8))
        dist.broadcast(data, src=0)
        found: T = torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
        return found

    @torch.no_grad()
    def same_weights(self, network: nn.Module) -> None:
        for tensor in (*network.parameters(), *network.buffers()):
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


@dataclass(frozen=True)
class Slice:
    """Some rows of a step's batch, in one process of several."""

    whole: int
    """Samples of the whole batch."""
    rows: slice
    weight: float
    """Of the mean over these rows in the mean over the batch."""
    copies: int = 1
    """How many processes have each row."""

    def samples(self, own: int) -> int:  # noqa: ARG002
        return self.whole

    def rows_of(self, draw: Callable[[int], Tensor], own: int) -> Tensor:
        # A representation may have several rows for each sample, for example one for each window of an image.
        of_sample = own // (self.rows.stop - self.rows.start)
        return draw(self.whole * of_sample)[self.rows.start * of_sample : self.rows.stop * of_sample]

    def mean(self, own: Tensor) -> Tensor:
        weighted = own.detach() * self.weight
        dist.all_reduce(weighted)
        return weighted

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        (loss * self.weight).backward()  # type: ignore[no-untyped-call]
        _sum_gradients(parameters)

    def whole_statistics(self) -> AbstractContextManager[None]:
        return WholeBatchStatistics(self.copies)


def _sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over the group. A parameter that no process has used keeps none, as in one process alone."""
    if not parameters:
        return
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    gradients = []
    for parameter in (parameters[i] for i in used.nonzero().flatten().tolist()):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    buckets = list(_buckets(gradients))
    flat = [torch.cat([gradient.reshape(-1) for gradient in bucket]) for bucket in buckets]
    works = [dist.all_reduce(one, async_op=True) for one in flat]
    for bucket, summed, work in zip(buckets, flat, works, strict=True):
        work.wait()
        pieces = torch.split(summed, [gradient.numel() for gradient in bucket])
        for gradient, piece in zip(bucket, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type and one device, at most about BUCKET_BYTES together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        alike = all((one.dtype, one.device) == (gradient.dtype, gradient.device) for one in bucket[:1])
        if bucket and not (alike and sum(one.nbytes for one in bucket) + gradient.nbytes <= BUCKET_BYTES):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
