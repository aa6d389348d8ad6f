"""Decodes the images of a data set into a store, or takes those that another job has decoded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from lit_core.data.errors import DatasetError, NotOfTheData, shown
from lit_core.data.pictures import Frame, Unfit, framed
from lit_core.data.pixels import frame_of
from lit_core.data.source import Limits, Source
from lit_core.data.store.decoder import Job, RowWriter, statistics_bytes
from lit_core.data.store.disk import most_bytes_of_file
from lit_core.data.store.encoded import Encoded
from lit_core.data.store.entry import DataStore, Entry
from lit_core.data.store.pool import opened_decoders
from lit_core.data.store.rows import Rows, bytes_of, rows_of_entry

READER_VERSION = 1
"""To be raised whenever the same file gives other pixels or another order, so that old entries are not used."""
IN_MEMORY_BYTES = 256 << 20
"""Smaller data sets are read into memory at once."""
PROCESS_BYTES = 4 << 20
"""Of image files, for which one more process is worth its start."""
SYNC_SECONDS = 5.0
"""Between two notes of what is on the disk. A killed job decodes again what it decoded since the last."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a data set."""

    identity: str
    """The same only for the same contents in the same rows."""
    samples: int
    encoded_bytes: int
    """Roughly."""
    each: Callable[[], Iterator[Encoded]]
    """All of them, in an order in which they can be read. May raise DatasetError."""
    decode: Callable[[Encoded], tuple[Encoded, Image.Image]]
    """One of them in the usual way, and with its content. Raises DatasetError that says what is wrong with it."""


def identity_of(path: Path, names: Iterable[str]) -> str:
    """Of the rows with these names, in this order, of an uploaded file."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    listing = hashlib.sha256()
    for name in names:
        listing.update(name.encode(errors="surrogateescape") + b"\0")
    return f"{content} {listing.hexdigest()}"


def decode_images(files: ImageFiles, source: Source) -> Rows:
    """Images (N, C, H, W) uint8, cropped and resized as requested: in memory if they are few. Raises DatasetError."""
    frame = frame_of(source.request)
    store = source.store or DataStore.temporary()
    entry = store.open(_key(files.identity, frame, source.channels))
    with entry.building(lambda: source.watch(0, files.samples)):
        if not entry.is_complete:
            _Decoding(files, source, store, entry, frame).run()
    height, width = json.loads(entry.shape.read_text())
    rows = rows_of_entry(entry, files.samples, source.channels, height, width)
    return rows[:].contiguous() if bytes_of(rows) <= IN_MEMORY_BYTES else rows


def _key(identity: str, frame: Frame, channels: int) -> str:
    # Another version may decode or resize to other pixels.
    described = json.dumps([READER_VERSION, pillow_version, identity, asdict(frame), channels])
    return hashlib.sha256(described.encode()).hexdigest()[:40]


class _Decoding:
    def __init__(self, files: ImageFiles, source: Source, store: DataStore, entry: Entry, frame: Frame) -> None:
        self.files, self.source, self.store, self.entry, self.frame = files, source, store, entry, frame
        self.marks: NDArray[np.uint8] = entry.marks(files.samples)
        self.synced = time.monotonic()
        self.found = 0

    def run(self) -> None:
        """Decode what the entry lacks. Raises DatasetError for the first image that can't be used."""
        images = self.files.each()
        first = next(images, None)
        if first is None:
            raise _changed()
        job = self._job(first)
        self._allocate(job)
        try:
            with opened_decoders(job, self._processes()) as decoders:
                for chunk, fault in decoders.run(self._missing(chain([first], images))):
                    if fault is not None:
                        self._write_again(chunk[fault:], job, first)
                    self._done(chunk)
        except BaseException:
            self._keep()
            raise
        if self.found != self.files.samples:
            raise _changed()
        self.entry.complete(self.marks)

    def _job(self, first: Encoded) -> Job:
        """The first image sets the size, if the request doesn't. Raises DatasetError."""
        picture = self._framed(first)[1]
        return Job(
            str(self.entry.rows),
            str(self.entry.statistics),
            self.source.channels,
            picture.height,
            picture.width,
            self.frame,
            self.source.limits.image_pixels,
        )

    def _allocate(self, job: Job) -> None:
        samples, limits = self.files.samples, self.source.limits
        needed = samples * (job.row_bytes + statistics_bytes(job.channels))
        _check_total(samples, job, limits)
        _check_file(samples * job.row_bytes)
        self.store.make_room(needed, self.entry)
        there = self.entry.bytes_on_disk
        free = shutil.disk_usage(self.entry.folder).free
        if needed - there > free:
            raise DatasetError(
                f"{samples} images take {needed} bytes decoded, but the worker's disk has {there + free} for them: "
                "set a smaller dataset.size, or ask the worker's operator for more room",
                field="dataset.size",
            )
        self.entry.allocate(samples * job.row_bytes, samples * statistics_bytes(job.channels))
        self.entry.shape.write_text(json.dumps([job.height, job.width]))

    def _processes(self) -> int:
        most = self.store.processes or min(len(os.sched_getaffinity(0)), torch.get_num_threads())
        return min(most, 1 + self.files.encoded_bytes // PROCESS_BYTES)

    def _missing(self, images: Iterable[Encoded]) -> Iterator[Encoded]:
        for image in images:
            self.found += 1
            if not self.marks[image.row]:
                yield image

    def _write_again(self, images: list[Encoded], job: Job, first: Encoded) -> None:
        """Of the images that a decoder left out, the first is likely to be at fault. Raises DatasetError."""
        writer = RowWriter(job)
        try:
            for image in images:
                full, picture = self._framed(image)
                if (picture.height, picture.width) != (job.height, job.width):
                    raise DatasetError(
                        f"{shown(image.name)} has {picture.height}x{picture.width} pixels (height x width), but "
                        f"{shown(first.name)} has {job.height}x{job.width}: set dataset.size to resize all images",
                        field="dataset.size",
                        member=shown(image.name),
                    )
                if writer.write([full]) is not None:
                    raise NotOfTheData(f"{shown(image.name)} can be decoded at one time and not at another")
        finally:
            writer.close()

    def _framed(self, image: Encoded) -> tuple[Encoded, Image.Image]:
        full, picture = self.files.decode(image)
        try:
            return full, framed(picture, self.frame)
        except Unfit as failure:
            name = shown(image.name)
            raise DatasetError(f"{name} {failure}", field=failure.field, member=name) from failure

    def _keep(self) -> None:
        """Note what is there, if the disk still takes it: what ended the decoding is what the job is told."""
        try:
            self.entry.mark(self.marks)
        except OSError as failure:
            log.warning("what was decoded since the last note will be decoded again: %s", failure)

    def _done(self, chunk: list[Encoded]) -> None:
        self.marks[[image.row for image in chunk]] = 1
        self.source.watch(int(np.count_nonzero(self.marks)), self.files.samples)
        if time.monotonic() - self.synced > SYNC_SECONDS:
            self.entry.mark(self.marks)
            self.synced = time.monotonic()


def _check_total(samples: int, job: Job, limits: Limits) -> None:
    if samples * job.row_bytes > limits.total_bytes:
        raise DatasetError(
            f"{samples} images of {job.height}x{job.width} take {samples * job.row_bytes} bytes decoded, "
            f"more than {limits.total_bytes}: set a smaller dataset.size",
            field="dataset.size",
        )


def _check_file(size: int) -> None:
    most = most_bytes_of_file()
    if size > most:
        raise DatasetError(
            f"the images take a file of {size} bytes decoded, but a job on this worker may write {most}: set a "
            "smaller dataset.size, or ask its operator to raise LIT_DATA_STORE_BYTES or LIT_TRAINER_FILE_BYTES",
            field="dataset.size",
        )


def _changed() -> DatasetError:
    return DatasetError("the archive has changed since it was listed")
