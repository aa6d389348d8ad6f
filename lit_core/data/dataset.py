"""Loads a data set: from its request and file to tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lit_core.data.doubts import alike, of_one_class, repeated
from lit_core.data.errors import DatasetError
from lit_core.data.labels import NO_LABEL
from lit_core.data.pictures import Unfit
from lit_core.data.pixels import dtype_name, fit
from lit_core.data.preprocessing import ImagePreprocessing, resolve_image_preprocessing
from lit_core.data.readers.digits import read_digits
from lit_core.data.readers.formats import read_upload
from lit_core.data.readers.mounted import no_folder, read_mounted
from lit_core.data.source import Interface, Limits, Raw, Source
from lit_core.data.splits import TEST, TRAIN, assign, empty_split, hold_out, partition
from lit_core.data.store.entry import DataStore
from lit_core.data.store.rows import Rows, StoredRows, bytes_of, digest_of, hash_of, pieces, subset
from lit_core.data.text_preprocessing import TextPreprocessing, resolve_text_preprocessing
from lit_spec import Augmentation, Constants, DatasetRequest, Modality, Split, Task
from lit_spec.requests.preprocessing import refused_resize

LIMITS = Limits()
TEST_UPLOAD = "dataset.test_upload"
NOWHERE = Path()
"""Of data that is built in."""
MOST_BYTES, MOST_SAMPLES = 1 << 30, 200_000
"""Larger arrays are not searched for samples that are in two splits: it would take more than seconds. Of stored images
the hashes are known."""
OF_IMAGES = ("shift", "flip", "rotate", "scale", "noise", "crop_scale", "crop_ratio", "crop_from", "color_jitter")
"""What texts can't be augmented by."""
SHIFT_SHARE = 8
"""The default shift is the image's shorter side divided by this."""

Preprocessing = Annotated[ImagePreprocessing | TextPreprocessing, Field(discriminator="kind")]


@dataclass(frozen=True)
class Arrays:
    """One split with raw samples; `apply` of the preprocessing turns `x[rows]` into the network's input."""

    x: Rows
    """Images (N, C, H, W), uint8 or float32, or texts (N, L) as vocabulary indices. May be non-contiguous. A tensor, or
    where they are many images on the disk."""
    y: Tensor
    """(N,) int64: indices in the class order, -1 for no label. For translation (N, domains) float32."""
    wider: Rows | None = None
    """Larger images of the same samples, from which training takes random crops. None: it takes them from `x`."""

    def digest(self) -> str:
        """The sha256 of all samples, without their labels."""
        return digest_of(self.x) if self.wider is None else f"{digest_of(self.x)} {digest_of(self.wider)}"

    @property
    def labels(self) -> int:
        """Number of samples with a label."""
        return int((self.y != NO_LABEL).reshape(len(self.y), -1).any(dim=1).sum())

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return self.labels == len(self.y)


@dataclass(frozen=True)
class Dataset:
    splits: dict[Split, Arrays]
    """All of `Split`; none is empty."""
    classes: list[str]
    preprocessing: ImagePreprocessing | TextPreprocessing
    augmentation: Augmentation
    notes: list[str] = field(default_factory=list)
    """What the user should know of how it was read."""


def load_dataset(
    request: DatasetRequest,
    augmentation: Augmentation | None,
    path: Path | None,
    interface: Interface,
    *,
    test: Path | None = None,
    limits: Limits = LIMITS,
    download: bool = False,
    store: DataStore | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read, split and measure the data for a teacher with that interface.

    `path` is the uploaded file or the folder of mounted data sets; None for built-in data. `test` is the upload whose
    samples are the test split, if the request names one. `download` allows that files missing in that folder are
    downloaded. Images are decoded into `store`, where the next job with the same file finds them; None: into temporary
    files. `watch` is called meanwhile with their number so far and that of all, and may raise Stopped.

    The result depends only on the request and the files: the hold-out has its own seed, so that jobs with
    different seeds have the same splits. Raises DatasetError.
    """
    _check_request(request, interface)
    limits = limits if store is None else replace(limits, total_bytes=max(limits.total_bytes, store.limit_bytes))
    source = Source(path or NOWHERE, request, interface, limits, download, store=store)
    source = source if watch is None else replace(source, watch=watch)
    raw = _read(source, path)
    _check_attributes(request, raw)
    y = _domains(raw.y, interface)
    codes = assign(y, raw.codes, request)
    x, names, fitted, numbered = raw.x, raw.classes, raw.fitted, raw.numbered
    notes = [*raw.notes, *alike(names), *([] if request.test_upload else _held_out(raw, codes))]
    del raw  # split_samples changes x in place, so nothing else may hold it
    if interface.modality == Modality.IMAGE and not fitted:
        x = _fitted(x, request, limits)
    chosen = _augmentation(augmentation, x, interface)
    splits = {split: Arrays(*part) for split, part in partition(x, y, codes).items()}
    if chosen.crop_from is not None:
        splits[Split.TRAIN] = replace(splits[Split.TRAIN], wider=_wider(source, path, chosen.crop_from, codes))
    if request.test_upload is not None:
        labels = _Labels(names, numbered=numbered, found=bool((y != NO_LABEL).any()))
        splits[Split.TEST], names = _read_test(source, test, splits[Split.TRAIN].x, labels)
    for split, arrays in splits.items():
        if len(arrays.y) == 0:
            raise empty_split(split)
    notes += _doubts(splits, names)
    if not request.labels:
        splits |= {split: _unlabelled(splits[split], interface) for split in (Split.TRAIN, Split.VALIDATION)}
    if (
        request.train_samples is not None
    ):  # after the labels are removed, because they must not influence the choice then
        splits[Split.TRAIN] = _fewer(splits[Split.TRAIN], request.train_samples)
    preprocessing = (
        resolve_text_preprocessing(request, names)
        if interface.modality == Modality.TEXT
        else resolve_image_preprocessing(request, splits[Split.TRAIN].x, names)
    )
    return Dataset(splits, names, preprocessing, chosen, notes)


def _check_request(request: DatasetRequest, interface: Interface) -> None:
    """`lit_spec.requests.resolve` checks this for jobs; here it is checked for direct callers."""
    channels, classes = interface.channels, interface.classes
    for name, values in (("mean", request.mean), ("std", request.std)):
        if not isinstance(values, str) and len(values) != channels:
            raise DatasetError(
                f"{name} has {len(values)} values, but the teacher takes {channels} channels: give one per channel",
                field=f"dataset.{name}",
            )
        if values in (Constants.IMAGENET, Constants.LIBRARY):
            raise DatasetError(
                f"{name} is {values}, which only a job's request may say: give one value per channel",
                field=f"dataset.{name}",
            )
    if (wrong := refused_resize(request)) is not None:
        raise DatasetError(f"resize {wrong}", field="dataset.resize")
    order = request.class_order
    if order is not None and (len(order) != classes or len(set(order)) != classes):
        raise DatasetError(
            f"class_order does not name each of the teacher's {classes} classes once: give each name once",
            field="dataset.class_order",
        )
    unfit = None if request.columns is None else request.columns.of_another_modality(interface.modality)
    if unfit is not None:
        raise DatasetError(
            f"{unfit} is given, but the teacher takes {interface.modality}s: leave it out",
            field=f"dataset.columns.{unfit}",
        )


def _read(source: Source, path: Path | None) -> Raw:
    request = source.request
    if request.builtin is not None:
        return read_digits(request, source.interface)
    if path is None:
        if request.mounted is not None:
            raise no_folder(request.mounted)
        raise ValueError("an uploaded data set needs its path")
    return read_upload(source) if request.mounted is None else read_mounted(source)


@dataclass(frozen=True)
class _Labels:
    """Of the training data."""

    names: list[str]
    numbered: bool
    found: bool
    """Whether a sample has a label."""


def _read_test(source: Source, path: Path | None, train: Rows, labels: _Labels) -> tuple[Arrays, list[str]]:
    """All samples of the test upload, like the training samples (N, …), and the names of the classes. Raises
    DatasetError that says that it is about this upload."""
    if path is None:
        raise ValueError("a test upload needs its path")
    request, interface, limits = source.request, source.interface, source.limits
    told = labels.found and not labels.numbered and request.attributes is None
    asked = request.model_copy(update={"class_order": labels.names}) if told else request
    try:
        raw = read_upload(replace(source, path=path, request=asked, trains=False))
        _check_attributes(asked, raw)
        x = raw.x if raw.fitted or interface.modality == Modality.TEXT else _fitted(raw.x, request, limits)
        y = _domains(raw.y, interface)
    except DatasetError as failure:
        raise DatasetError(f"the test upload: {failure.detail}", field=TEST_UPLOAD, member=failure.member) from failure
    named = not raw.numbered and bool((raw.y != NO_LABEL).any())
    if labels.found and labels.numbered and named and request.class_order is None:
        raise DatasetError(
            "the training labels are numbers, but the test upload names its classes: give the names in the order of "
            "the outputs",
            field="dataset.class_order",
        )
    if (x.shape[1:], x.dtype) != (train.shape[1:], train.dtype):
        found, wanted = (f"{tuple(part.shape[1:])} {dtype_name(part.dtype)}" for part in (x, train))
        raise DatasetError(
            f"the test upload has samples of {found}, but the training samples are {wanted}: give samples of one kind, "
            "and set dataset.size for images of different sizes",
            field=TEST_UPLOAD,
        )
    return Arrays(x, y), labels.names if labels.found else raw.classes


def _wider(source: Source, path: Path | None, side: int, codes: Tensor) -> Rows:
    """The training images once more, with a shorter side of `side` and otherwise as the request says."""
    request = source.request
    if request.size is None or min(request.size) > side:
        raise DatasetError(
            f"crops are to be taken from images of {side} pixels, which must be no smaller than dataset.size "
            f"({request.size}): give dataset.size, or a larger crop_from",
            field="augmentation.crop_from",
        )
    asked = request.model_copy(update=_scaled(request, side))
    raw = _read(replace(source, request=asked), path)
    x = raw.x if raw.fitted else _fitted(raw.x, asked, source.limits)
    return subset(x, (codes == TRAIN).nonzero().squeeze(1))


def _scaled(request: DatasetRequest, side: int) -> dict[str, Any]:
    """`size` and `resize` for a shorter side of `side`. Less is cut off than from the network's images where these are
    the middle of larger ones."""
    size = request.size or [side, side]
    larger = [round(side * length / min(size)) for length in size]
    match request.resize:
        case int():
            return {"size": larger, "resize": max(larger)}
        case [height, width]:
            return {"size": larger, "resize": [max(height, larger[0]), max(width, larger[1])]}
        case _:
            return {"size": larger}


def _check_attributes(request: DatasetRequest, raw: Raw) -> None:
    if request.attributes is not None and raw.classes != request.attributes:
        raise DatasetError(
            "attributes are only for data in CelebA's layout, and this is not: give the domains in class_order",
            field="dataset.attributes",
        )


def _domains(y: Tensor, interface: Interface) -> Tensor:
    """For translation, each class is a domain."""
    if interface.task != Task.TRANSLATION or y.ndim == 2:
        return y
    if bool((y == NO_LABEL).any()):
        raise DatasetError(
            "a sample has no label, but a generator needs the domain of each sample: give labels", field="dataset"
        )
    return F.one_hot(y, interface.classes or -1).float()


def _fitted(x: Rows, request: DatasetRequest, limits: Limits) -> Rows:
    """Crop and resize, unless the reader of image files has done so."""
    size = request.size or list(x.shape[2:])
    needed = x.shape[0] * x.shape[1] * math.prod(size) * x.dtype.itemsize
    if needed > limits.memory_bytes:
        raise DatasetError(
            f"{len(x)} images of {size[0]}x{size[1]} take {needed} bytes, more than {limits.memory_bytes}, half of the "
            "worker's memory: set a smaller dataset.size",
            field="dataset.size",
        )
    try:
        return fit(x[:], request)
    except Unfit as failure:
        raise DatasetError(f"x {failure}", field=failure.field) from failure


def _held_out(raw: Raw, codes: Tensor) -> list[str]:
    """A note for a test split that is a part of the training split, which the teacher may have seen."""
    if raw.codes is not None and bool((raw.codes == TEST).any()):
        return []
    return [
        f"the data has no test split, so {int((codes == TEST).sum())} of its samples were held out for the test: the "
        "teacher may have been trained on them, so that what is measured there may be better than on new data; give a "
        "test split that it has not seen"
    ]


def _doubts(splits: dict[Split, Arrays], classes: list[str]) -> list[str]:
    """Notes for samples that are in two splits, and for splits of one class."""
    notes: list[str] = []
    unknown = [one.x for one in splits.values() if not _has_hashes(one.x)]
    if sum(map(bytes_of, unknown)) <= MOST_BYTES and sum(map(len, unknown)) <= MOST_SAMPLES:
        trained = _hashes(splits[Split.TRAIN].x)
        for split in (Split.VALIDATION, Split.TEST):
            notes += repeated(split, _hashes(splits[split].x), trained)
    for split, arrays in splits.items():
        notes += of_one_class(split, arrays.y, classes)
    return notes


def _has_hashes(x: Rows) -> bool:
    return isinstance(x, StoredRows) and x.statistics is not None


def _hashes(x: Rows) -> NDArray[np.int64]:
    """(N,)."""
    if isinstance(x, StoredRows) and x.statistics is not None:
        return x.hashes()
    return np.fromiter((hash_of(sample) for piece in pieces(x) for sample in piece), dtype=np.int64, count=len(x))


def _fewer(arrays: Arrays, samples: int) -> Arrays:
    """This many of the samples, with the same shares of the classes. The same y gives the same choice."""
    if samples > len(arrays.y):
        raise DatasetError(
            f"train_samples is {samples}, but the training split has {len(arrays.y)}: lower it or leave it out",
            field="dataset.train_samples",
        )
    rows = hold_out(arrays.y, samples)
    wider = None if arrays.wider is None else subset(arrays.wider, rows)
    return Arrays(subset(arrays.x, rows), arrays.y[rows], wider)


def _unlabelled(arrays: Arrays, interface: Interface) -> Arrays:
    if interface.task != Task.CLASSIFICATION:
        raise DatasetError(
            "labels can't be ignored, because a generator needs its domains: leave this out", field="dataset.labels"
        )
    return replace(arrays, y=torch.full_like(arrays.y, NO_LABEL))


def _augmentation(augmentation: Augmentation | None, x: Rows, interface: Interface) -> Augmentation:
    if interface.modality == Modality.TEXT:
        wrong = [name for name in OF_IMAGES if _asked(augmentation, name)]
        if wrong:
            raise DatasetError(
                "is for images, but the teacher takes texts: leave it out", field=f"augmentation.{wrong[0]}"
            )
        return augmentation or Augmentation()
    if _asked(augmentation, "mask"):
        raise DatasetError("is for texts, but the teacher takes images: leave it out", field="augmentation.mask")
    shorter = min(x.shape[2:])
    generator = interface.task == Task.TRANSLATION
    crops = augmentation is not None and augmentation.crop_scale is not None
    usual = Augmentation(shift=0 if generator or crops else min(shorter // SHIFT_SHARE, 64), flip=generator)
    if augmentation is None:
        return usual
    if augmentation.shift is not None and augmentation.shift >= shorter:
        raise DatasetError(
            f"a shift of {augmentation.shift} pixels can move an image of {x.shape[2]}x{x.shape[3]} out of sight: "
            f"shift at most {shorter - 1}",
            field="augmentation.shift",
        )
    if augmentation.color_jitter and (x.dtype != torch.uint8 or x.shape[1] not in (1, 3)):
        raise DatasetError(
            f"colours are changed in images of 8 bits with 1 or 3 channels, but these are {dtype_name(x.dtype)} with "
            f"{x.shape[1]}: leave it out",
            field="augmentation.color_jitter",
        )
    open_ones = {name: getattr(usual, name) for name in ("shift", "flip") if getattr(augmentation, name) is None}
    return augmentation.model_copy(update=open_ones)


def _asked(augmentation: Augmentation | None, name: str) -> bool:
    default = Augmentation.model_fields[name].default
    return augmentation is not None and getattr(augmentation, name) != default
