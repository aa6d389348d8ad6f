"""A teacher whose answers are kept on disk."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_core.data.views import SampleViews
from lit_core.training.batch import Batch
from lit_core.training.caching.folder import CacheFolder, NoRoom
from lit_core.training.caching.pieces import Layout, layout_of
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
    something was there or not. Where a part of the batch is missing, the teacher is run on the whole batch, because
    on another number of samples it may round differently.
    """

    def __init__(self, live: LiveTeacher, cache: TeacherCache) -> None:
        self.live, self.cache = live, cache
        self._layout: Layout | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        if batch.samples is None:
            raise ValueError("a cached teacher needs a batch that names its samples: use LiveTeacher for others")
        if self.live.needs.nothing:
            return self.live(batch)
        layout = self._layout = self._layout or layout_of(self.live, _first_two(batch))
        pieces = self.cache.read(layout, batch)
        if pieces is None:
            with self.cache.timed_teaching(batch):
                taught = self.live(batch)
            pieces = self.cache.write(layout, batch, layout.pieces_of(taught))
        return layout.taught(pieces, self.live.network, batch)


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
        self._teaching: list[float] = []
        self._reading: list[float] = []

    def around(self, live: LiveTeacher) -> CachedTeacher:
        return CachedTeacher(live, self)

    def read(self, layout: Layout, batch: Batch) -> dict[str, Tensor] | None:
        """The pieces of a batch (B, …) on its device; None if they are not all there."""
        samples = _named(batch)
        pieces = None if self.entry is None else self._read(self.entry, layout, samples, batch.inputs[0].device)
        if pieces is None:
            self.misses += len(samples)
        else:
            self.hits += len(samples)
        return pieces

    def write(self, layout: Layout, batch: Batch, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write what is not there. Returns all as it would be read: rounded, and what was there as it was there."""
        samples, dtype = _named(batch), torch_type(_type_of(self.plan))
        rounded = {name: _rounded(tensor, dtype) for name, tensor in pieces.items()}
        if (entry := self.entry) is not None:
            self._write(entry, layout, samples, rounded)
            began = _now(batch)
            read = self._read(entry, layout, samples, batch.inputs[0].device)
            if read is not None:
                self._compare(_now(batch) - began)
                return read
        return {piece.name: rounded[piece.name].to(piece.dtype) for piece in layout.pieces}

    @contextmanager
    def timed_teaching(self, batch: Batch) -> Iterator[None]:
        began = _now(batch)
        yield
        self._teaching.append(_now(batch) - began)

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
            self._note(f"view {view} has no room in the cache: {failure}")
            return {}

    def _compare(self, seconds: float) -> None:
        """End the use of the cache if reading takes longer than the teacher. The numbers stay the same."""
        if len(self._reading) >= MEASURED_BATCHES:
            return
        self._reading.append(seconds)
        if len(self._reading) == MEASURED_BATCHES:
            teaching, reading = (statistics.median(times[1:]) for times in (self._teaching, self._reading))
            log.info("the teacher takes %.1f ms a batch, the cache %.1f ms", 1000 * teaching, 1000 * reading)
            if reading > teaching:
                self.entry = None
                self._note(f"reading takes {1000 * reading:.1f} ms a batch, the teacher only {1000 * teaching:.1f} ms")

    def _note(self, reason: str) -> None:
        self.reason = reason
        log.warning("the teacher is run again, because %s", reason)


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


def _first_two(batch: Batch) -> Batch:
    return Batch(tuple(x[:2] for x in batch.inputs), batch.labels[:2])


def _now(batch: Batch) -> float:
    """The clock, once the device has done what was asked of it."""
    if batch.inputs[0].device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
