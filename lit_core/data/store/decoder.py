"""`python -m lit_core.data.store.decoder`: decodes images and writes them to their rows in the store's files.

Standard input has a pickled `Job`, then lists of `Encoded`. For each list a pickled answer goes to standard output: the
place in the list of the first image that can't be decoded, or None; or the OSError that kept a row from being written.
The process ends at the end of its input. It imports Pillow and little else: it starts in a tenth of a second and takes
little memory.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from lit_core.data.pictures import Frame, decoded, framed
from lit_core.data.store.encoded import Encoded

HASH_BYTES = 8
VALUES = range(256)
SQUARES = [value * value for value in VALUES]


@dataclass(frozen=True)
class Job:
    """What is the same for all images of a data set."""

    rows_path: str
    """Of the file with the pixels: (N, H, W, C) uint8."""
    statistics_path: str
    """Of the file with `statistics_of` each row."""
    channels: int
    height: int
    width: int
    frame: Frame
    most_pixels: int
    """Of an image as it is in its file."""

    @property
    def row_bytes(self) -> int:
        return self.height * self.width * self.channels


class RowWriter:
    """Writes decoded images to the two files of a store's entry."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._rows = os.open(job.rows_path, os.O_WRONLY | os.O_CLOEXEC)
        self._statistics = os.open(job.statistics_path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, images: Sequence[Encoded]) -> int | None:
        """The place of the first image that can't be decoded or has another size; those after it are left out."""
        for place, image in enumerate(images):
            try:
                pixels, counts = self._pixels(image)
            # Libraries raise anything for a broken file. The caller decodes it again, and then it is told apart.
            except Exception:  # noqa: BLE001
                return place
            write_at(self._rows, pixels, image.row * self.job.row_bytes)
            statistics = statistics_of(pixels, counts)
            write_at(self._statistics, statistics, image.row * len(statistics))
        return None

    def close(self) -> None:
        os.close(self._rows)
        os.close(self._statistics)

    def _pixels(self, image: Encoded) -> tuple[bytes, list[int]]:
        """(H, W, C) uint8, and how often each value occurs in each channel."""
        job = self.job
        picture = framed(decoded(image.read(), job.channels, job.most_pixels), job.frame)
        if (picture.height, picture.width) != (job.height, job.width):
            raise ValueError("has another size than the first image")
        return picture.tobytes(), picture.histogram()


def statistics_of(pixels: bytes, counts: Sequence[int]) -> bytes:
    """Little-endian int64: the first bytes of the pixels' SHA-256, then each channel's sum and sum of squares."""
    sums: list[int] = []
    for start in range(0, len(counts), len(VALUES)):
        channel = counts[start : start + len(VALUES)]
        sums += [sum(map(mul, channel, VALUES)), sum(map(mul, channel, SQUARES))]
    return hashlib.sha256(pixels).digest()[:HASH_BYTES] + struct.pack(f"<{len(sums)}q", *sums)


def statistics_bytes(channels: int) -> int:
    return HASH_BYTES + 2 * 8 * channels


def write_at(file: int, data: bytes, offset: int) -> None:
    """All of `data`; one call may write less. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def main() -> int:
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    writer = RowWriter(pickle.load(requests))  # noqa: S301  # from the process that started this one
    while True:
        try:
            images = pickle.load(requests)  # noqa: S301
        except EOFError:
            return 0
        pickle.dump(_answer(writer, images), answers)
        answers.flush()


def _answer(writer: RowWriter, images: Sequence[Encoded]) -> int | OSError | None:
    try:
        return writer.write(images)
    except OSError as failure:
        return failure


if __name__ == "__main__":
    sys.exit(main())
