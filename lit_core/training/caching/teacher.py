"""A teacher whose answers are kept on disk."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_core.data.views import SampleViews
from lit_core.training.batch import Batch
from lit_core.training.caching.folder import CacheFolder, NoRoom
from lit_core.training.caching.pieces import Layout, Piece, layout_of
from lit_core.training.caching.store import Entry, PieceFile, torch_type
from lit_core.training.taught import LiveTeacher, Taught
from lit_spec import CachedType
from lit_spec.trainer.report import CachePlan, TeacherCacheReport

MEASURED_BATCHES = 6
"""Batches whose teaching is compared with reading the same again. The first one warms up."""

log = logging.getLogger(__name__)


class CachedTeacher:
    """Reads what is in the cache of every sample of a batch; otherwise runs the teacher, and writes what is missing.

    What it returns is rounded to the type of the cache in both cases, so that a student learns the same whether
    something was there or not. Where a part of the batch is missing, the teacher is run on the whole batch, and short
    batches are filled up to `batch_size`, because on another number of samples it may round differently.
    """

    def __init__(self, live: LiveTeacher, cache: TeacherCache, batch_size: int = 1) -> None:
        self.live, self.cache, self.batch_size = live, cache, batch_size
        self._layout: Layout | None = None
        self._teaching: list[float] = []
        self._reading: list[float] = []
        self._reads = True

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        if batch.samples is None:
            raise ValueError("a cached teacher needs a batch that names its samples: use LiveTeacher for others")
        if self.live.needs.nothing:
            return self.live(batch)
        layout = self._layout = self._layout or layout_of(self.live, _first_two(batch))
        pieces = self.cache.look_up(layout, batch) if self._reads else None
        self.cache.count(batch, read=pieces is not None)
        return layout.taught(self._made(layout, batch) if pieces is None else pieces, self.live, batch)

    def _made(self, layout: Layout, batch: Batch) -> dict[str, Tensor]:
        """Made by the teacher. If it is faster than the cache, it is run from now on."""
        began = _now(batch)
        made = layout.pieces_of(self.live(_filled_up(batch, self.batch_size)))
        rounded = self.cache.rounded({name: tensor[: len(batch.labels)] for name, tensor in made.items()})
        teaching = _now(batch) - began
        if self._reads:
            self.cache.write(layout, batch, rounded)
            began = _now(batch)
            read = self.cache.look_up(layout, batch)
            if read is not None:
                self._compare(teaching, _now(batch) - began)
                return read
        return {piece.name: rounded[piece.name].to(piece.dtype) for piece in layout.pieces}

    def _compare(self, teaching: float, reading: float) -> None:
        """End the use of the cache if reading takes longer than the teacher. The numbers stay the same."""
        if len(self._reading) >= MEASURED_BATCHES:
            return
        self._teaching.append(teaching)
        self._reading.append(reading)
        if len(self._reading) == MEASURED_BATCHES:
            taught, read = (1000 * statistics.median(times[1:]) for times in (self._teaching, self._reading))
            log.info("the teacher takes %.1f ms a batch, the cache %.1f ms", taught, read)
            if read > taught:
                self._reads = False
                self.cache.note(f"reading takes {read:.1f} ms a batch, the teacher only {taught:.1f} ms")


@dataclass
class TeacherCache:
    """The cache of one training."""

    plan: CachePlan
    entry: Entry | None
    """None: nothing is read or written, but the teacher's numbers are rounded as if it were."""
    hits: int = 0
    """Samples that were read."""
    misses: int = 0
    reason: str | None = None
    """Why not all that the plan says is kept."""

    def __post_init__(self) -> None:
        self._views_without_room: set[int] = set()

    def around(self, live: LiveTeacher, batch_size: int = 1) -> CachedTeacher:
        """`batch_size` is that of all batches of the training but those that end an epoch."""
        return CachedTeacher(live, self, batch_size)

    def count(self, batch: Batch, *, read: bool) -> None:
        """Count a batch as read or made."""
        if read:
            self.hits += len(batch.labels)
        else:
            self.misses += len(batch.labels)

    def look_up(self, layout: Layout, batch: Batch) -> dict[str, Tensor] | None:
        """The pieces of a batch (B, …) on its device; None if they are not all there."""
        if self.entry is None:
            return None
        return self._read(self.entry, layout, _named(batch), batch.inputs[0].device)

    def rounded(self, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """To the type of the cache."""
        dtype = torch_type(_type_of(self.plan))
        return {name: _rounded(tensor, dtype) for name, tensor in pieces.items()}

    def write(self, layout: Layout, batch: Batch, rounded: Mapping[str, Tensor]) -> None:
        """Write what is not there."""
        if self.entry is not None:
            self._write(self.entry, layout, _named(batch), rounded)

    def note(self, reason: str) -> None:
        self.reason = reason
        log.warning("the teacher is run again, because %s", reason)

    def reserve(self, pieces: Iterable[Piece]) -> None:
        """Make the files of the first view. Raises NoRoom, and OSError."""
        if self.entry is not None:
            for piece in pieces:
                self.entry.file(piece, 0)

    def environment(self) -> dict[str, str]:
        """What must be the same for bit-identical results: another entry may have rows that other jobs have made."""
        return {"teacher_cache": "none" if self.entry is None else self.entry.identity}

    def report(self) -> TeacherCacheReport:
        asked = self.hits + self.misses
        return TeacherCacheReport(
            **self.plan.model_dump(exclude={"reason"}, exclude_none=True),
            used=self.hits > 0,
            reason=self.reason,
            bytes=0 if self.entry is None else self.entry.bytes,
            hit_rate=round(self.hits / asked, 4) if asked else 0.0,
        )

    def _read(
        self, entry: Entry, layout: Layout, samples: SampleViews, device: torch.device
    ) -> dict[str, Tensor] | None:
        views = sorted(set(samples.views.tolist()))
        places = [torch.nonzero(samples.views == view)[:, 0] for view in views]
        files = [self._files(entry, layout, view) for view in views]
        for file, place in zip(files, places, strict=True):
            if not file or not bool(entry.are_there(list(file.values()), samples.rows[place]).all()):
                return None
        found = {}
        for piece in layout.pieces:
            parts = [file[piece.name].values[samples.rows[place]] for file, place in zip(files, places, strict=True)]
            stored = parts[0] if len(parts) == 1 else _in_order(parts, places)
            found[piece.name] = piece.from_rows(stored.to(device).to(piece.dtype))
        return found

    def _write(self, entry: Entry, layout: Layout, samples: SampleViews, rounded: Mapping[str, Tensor]) -> None:
        for view in sorted(set(samples.views.tolist())):
            place = torch.nonzero(samples.views == view)[:, 0]
            files = self._files(entry, layout, view)
            for piece in layout.pieces if files else ():
                values = piece.as_rows(rounded[piece.name])[place.to(rounded[piece.name].device)]
                entry.write(files[piece.name], samples.rows[place], values.cpu())

    def _files(self, entry: Entry, layout: Layout, view: int) -> dict[str, PieceFile]:
        """The file of each piece; none if there is no room for one of them."""
        if view in self._views_without_room:
            return {}
        try:
            return {piece.name: entry.file(piece, view) for piece in layout.pieces}
        except (NoRoom, OSError) as failure:
            self._views_without_room.add(view)
            self.note(f"view {view} has no room in the cache: {failure}")
            return {}


@contextmanager
def opened_cache(folder: CacheFolder, name: str, samples: int, plan: CachePlan) -> Iterator[TeacherCache]:
    """Raises OSError, and ValueError for a plan without a cache."""
    with folder.opened(name) as path:
        entry = Entry(folder, path, samples, _type_of(plan))
        try:
            yield TeacherCache(plan, entry)
        finally:
            entry.close()


def _type_of(plan: CachePlan) -> CachedType:
    if plan.dtype is None:
        raise ValueError("the plan has no cache")
    return plan.dtype


def _named(batch: Batch) -> SampleViews:
    if batch.samples is None:
        raise ValueError("the batch does not name its samples, so it has no place in the cache")
    return batch.samples


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Values beyond the type's range become its largest ones."""
    if torch.finfo(tensor.dtype).max <= torch.finfo(dtype).max:
        return tensor.to(dtype)
    limit = torch.finfo(dtype).max
    return tensor.clamp(-limit, limit).to(dtype)


def _in_order(parts: list[Tensor], places: list[Tensor]) -> Tensor:
    """The rows of all parts, each at its place in the batch."""
    joined = torch.cat(parts)
    ordered = torch.empty_like(joined)
    ordered[torch.cat(places)] = joined
    return ordered


def _filled_up(batch: Batch, size: int) -> Batch:
    """With so many samples at least; those that are added are repetitions."""
    if (own := len(batch.labels)) >= size:
        return batch
    times = math.ceil(size / own)
    inputs = tuple(torch.cat([x] * times)[:size] for x in batch.inputs)
    return replace(batch, inputs=inputs, labels=torch.cat([batch.labels] * times)[:size])


def _first_two(batch: Batch) -> Batch:
    return Batch(tuple(x[:2] for x in batch.inputs), batch.labels[:2])


def _now(batch: Batch) -> float:
    """The clock, once the device has done what was asked of it."""
    if batch.inputs[0].device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
