"""What an inspection learns while a reader goes through a data set, of which nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from lit_core.data.errors import DatasetError
from lit_core.data.pixels import to_channels_first, to_pixels
from lit_spec import Modality
from lit_spec.dataset_inspection import ImageContents, TextContents

FAULTS_NAMED, SKIPPED_NAMED = 5, 20
SAMPLES_MEASURED = 20_000
"""Of an array. They are spread over the whole of it."""
CHUNK_VALUES = 1 << 21
"""Of an array, measured at a time in float64."""


class Probe:
    """A reader with a probe in its `Source` shows it each sample instead of keeping it, until `is_over`."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.modalities: list[Modality] = []
        """What the samples are, or may be."""
        self.hashes: dict[int, int] = {}
        """Of samples, by row."""
        self.looked_at = 0
        self.skipped: dict[str, None] = {}
        self._faults: list[tuple[str, str]] = []
        """Detail and member of the first samples that can't be read. The errors themselves would keep their content."""
        self._faulty = 0
        self._images: _Images | None = None
        self._lengths: list[int] = []

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def skip(self, name: str) -> None:
        """A file that isn't part of the data."""
        if len(self.skipped) < SKIPPED_NAMED:
            self.skipped[name] = None

    def see_image(self, row: int, pixels: Tensor) -> None:
        """(C, H, W) uint8."""
        self.modalities = [Modality.IMAGE]
        self._images = self._images or _Images([1, 3], 255.0)
        self._images.add(pixels[None])
        self._see(row, pixels)

    def see_texts(self, row: int, texts: Sequence[str]) -> None:
        """The texts of the samples from `row` on."""
        self.modalities = [Modality.TEXT]
        self._lengths += map(len, texts)
        self.looked_at += len(texts)
        self.hashes.update({row + number: hash(text) for number, text in enumerate(texts)})

    def see_indices(self, x: Tensor) -> None:
        """Texts as indices in a vocabulary (N, L), or images that were flattened, as a job says that takes images."""
        self.modalities = [Modality.TEXT, Modality.IMAGE]
        self._lengths = [x.shape[1]]
        self._see_rows(x)

    def see_array(self, x: Tensor) -> None:
        """Images of any layout. Raises ValueError."""
        self.modalities = [Modality.IMAGE]
        if x.ndim not in (3, 4):
            raise ValueError(f"has the shape {tuple(x.shape)}: it must be (N, H, W), (N, C, H, W) or (N, H, W, C)")
        allowed = [1] if x.ndim == 3 else [x.shape[1], x.shape[3]]
        likely = next((channels for channels in (3, 1) if channels in allowed), min(allowed))
        pixels = to_pixels(to_channels_first(x, likely))
        self._images = _Images(list(dict.fromkeys(allowed)), 255.0 if pixels.dtype == torch.uint8 else 1.0)
        spread = pixels[:: -(-len(pixels) // SAMPLES_MEASURED)]
        for chunk in torch.split(spread, max(1, CHUNK_VALUES // max(1, spread[0].numel()))):
            self._images.add(chunk)
            self.looked_at += len(chunk)
            if self.is_over:
                return
        self.looked_at = 0
        self._see_rows(pixels)

    def see_fault(self, fault: DatasetError) -> None:
        """A sample that can't be read. Raises it if it is not the sample's own fault."""
        if fault.member is None or fault.field is not None:
            raise fault
        self._faulty += 1
        if len(self._faults) < FAULTS_NAMED:
            self._faults.append((fault.detail, fault.member))

    def check(self) -> None:
        """Raises DatasetError that names the samples that can't be read."""
        if not self._faults:
            return
        named = "; ".join(detail for detail, _ in self._faults)
        more = self._faulty - len(self._faults)
        if self._faulty > 1:
            named = f"{self._faulty} samples can't be read: {named}" + (f"; and {more} more" if more else "")
        raise DatasetError(named, member=self._faults[0][1])

    def images(self) -> ImageContents | None:
        return None if self._images is None else self._images.contents()

    def texts(self) -> TextContents | None:
        if not self._lengths:
            return None
        return TextContents(
            shortest=min(self._lengths), median=round(median(self._lengths)), longest=max(self._lengths)
        )

    def _see_rows(self, x: Tensor) -> None:
        for row, sample in enumerate(x):
            if self.is_over:
                return
            self._see(row, sample)

    def _see(self, row: int, sample: Tensor) -> None:
        self.hashes[row] = hash((tuple(sample.shape), sample.contiguous().numpy().tobytes()))
        self.looked_at += 1


class _Images:
    """Sizes, and sums for the statistics of each channel."""

    def __init__(self, channels: list[int], scale: float) -> None:
        self.channels, self.scale = channels, scale
        self.height, self.width = [1 << 31, 0], [1 << 31, 0]
        self.grey = True
        self.sums = self.squares = torch.zeros(0, dtype=torch.float64)
        self.pixels = 0

    def add(self, x: Tensor) -> None:
        """(N, C, H, W)."""
        for bounds, side in ((self.height, x.shape[2]), (self.width, x.shape[3])):
            bounds[:] = [min(bounds[0], side), max(bounds[1], side)]
        values = x.transpose(0, 1).flatten(1).double() / self.scale
        if self.pixels == 0:
            self.sums = self.squares = torch.zeros(len(values), dtype=torch.float64)
        self.sums = self.sums + values.sum(1)
        self.squares = self.squares + values.square().sum(1)
        self.pixels += values.shape[1]
        self.grey = self.grey and len(values) in (1, 3) and bool((x[:, :1] == x).all())

    def contents(self) -> ImageContents:
        mean = self.sums / self.pixels
        std = (self.squares / self.pixels - mean.square()).clamp(min=0).sqrt()
        return ImageContents(
            channels=self.channels,
            grey=self.grey,
            height=self.height,
            width=self.width,
            mean=[round(value, 4) for value in mean.tolist()],
            std=[round(value, 4) for value in std.tolist()],
        )
