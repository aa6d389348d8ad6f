"""Data sets by name, from a folder that the operator of the workers has mounted; torchvision reads them.

The folder is trusted: CIFAR's files are pickles, which torchvision unpickles if their MD5 is the published one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from lit_core.data.errors import DatasetError, is_of_machine, shown
from lit_core.data.pictures import to_picture
from lit_core.data.source import Raw, Source
from lit_core.data.splits import TEST, TRAIN, VALIDATION, hold_out
from lit_core.data.store.decoding import ImageFiles, decode_images
from lit_core.data.store.encoded import Encoded, Extent
from lit_core.data.store.rows import Rows
from lit_spec import Modality, Task

if TYPE_CHECKING:
    from torchvision.datasets import CelebA

T = TypeVar("T")
CHANNELS = 3
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ConnectionError, TimeoutError)
LOCK_NAME = ".lit-download.lock"


@dataclass(frozen=True)
class Mounted:
    """A data set in the folder."""

    read: Callable[[Source], Raw]
    files: str
    """The files that the operator must put into the folder, and where they come from."""


def read_mounted(source: Source) -> Raw:
    """`source.path` is the operator's folder. Raises DatasetError."""
    name, interface = source.request.mounted or "", source.interface
    if interface.modality == Modality.TEXT:
        raise DatasetError(f"{name} has images, but the teacher takes texts", field="dataset.mounted")
    if interface.channels != CHANNELS:
        raise DatasetError(
            f"{name} has {CHANNELS} channels, but the teacher takes {interface.channels}: use the data that the "
            "teacher was trained on",
            field="dataset.mounted",
        )
    with _missing_is_an_error(source):
        return MOUNTED[name].read(source)


def no_folder(name: str) -> DatasetError:
    """The error of a worker without a folder of data sets."""
    return DatasetError(
        f"this worker has no folder of data sets to read {name} from: its operator must name one with "
        f"LIT_DATASETS_DIR and put {MOUNTED[name].files} into it",
        field="dataset.mounted",
    )


def _opened(reader: Callable[..., T], source: Source, folder: Path, **options: Any) -> T:
    """torchvision's reader, which checks its files. Missing files are downloaded if that is allowed."""
    try:
        return reader(folder, **options)
    except Exception as failure:
        if not source.download or _is_of_machine(failure):
            raise
    source.path.mkdir(parents=True, exist_ok=True)
    with (source.path / LOCK_NAME).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may share the folder, and only one downloads
        return reader(folder, **options, download=True)


@contextmanager
def _missing_is_an_error(source: Source) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except Exception as failure:
        if _is_of_machine(failure):
            raise
        name = source.request.mounted or ""
        download = "" if source.download else ", or allow downloads with LIT_DATASETS_DOWNLOAD=true"
        # The rest of the message is advice for programmers.
        reason = str(failure).partition(" You can use download=True")[0] or type(failure).__name__
        raise DatasetError(
            f"{name} is missing or damaged on this worker ({shown(reason).rstrip('.')}): its "
            f"operator must put {MOUNTED[name].files} into the folder {source.path} (LIT_DATASETS_DIR){download}",
            field="dataset.mounted",
        ) from failure


def _is_of_machine(failure: Exception) -> bool:
    """Like `is_of_machine`, but files that are missing or closed to us, and downloads that break, are the folder's."""
    return is_of_machine(failure) and not isinstance(failure, MISSING)


# --- classes ---------------------------------------------------------------------------------------------


def _read_cifar10(source: Source) -> Raw:
    from torchvision.datasets import CIFAR10  # imported here because it is slow to import

    return _read_cifar(CIFAR10, source)


def _read_cifar100(source: Source) -> Raw:
    from torchvision.datasets import CIFAR100

    return _read_cifar(CIFAR100, source)


def _read_cifar(reader: Callable[..., Any], source: Source) -> Raw:
    parts = [_opened(reader, source, source.path, train=train) for train in (True, False)]
    x = [torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in parts]
    return _classified(x, [torch.tensor(part.targets) for part in parts], parts[0].classes, source)


def _read_svhn(source: Source) -> Raw:
    from torchvision.datasets import SVHN

    parts = [_opened(SVHN, source, source.path / "svhn", split=split) for split in ("train", "test")]
    x = [torch.from_numpy(part.data) for part in parts]
    return _classified(x, [torch.from_numpy(part.labels) for part in parts], list(map(str, range(10))), source)


def _classified(x: Sequence[Tensor], y: Sequence[Tensor], names: list[str], source: Source) -> Raw:
    """Data with a training and a test part. The validation split is held out from the training part."""
    order = source.request.class_order or names
    if len(names) != source.classes:
        raise DatasetError(
            f"{source.request.mounted} has {len(names)} classes, but the teacher has {source.classes}: use the data "
            "that the teacher was trained on",
            field="dataset.mounted",
        )
    if sorted(order) != sorted(names):
        raise DatasetError(
            f"the classes of {source.request.mounted} are {', '.join(names)}: name each once",
            field="dataset.class_order",
        )
    output = torch.tensor([order.index(name) for name in names])
    codes = [torch.full((len(part),), code) for part, code in zip(y, (TRAIN, TEST), strict=True)]
    return Raw(torch.cat(list(x)), output[torch.cat(list(y))], torch.cat(codes), list(order))


# --- attributes ------------------------------------------------------------------------------------------


def _read_celeba(source: Source) -> Raw:
    from torchvision.datasets import CelebA

    parts = {
        code: _opened(CelebA, source, source.path, split=split, target_type="attr", transform=_rgb)
        for code, split in ((TRAIN, "train"), (VALIDATION, "valid"), (TEST, "test"))
    }
    attributes = _chosen(source, [name for name in parts[TRAIN].attr_names if name])
    columns = [parts[TRAIN].attr_names.index(name) for name in attributes]
    y = {code: part.attr[:, columns].float() for code, part in parts.items()}
    rows = {code: torch.arange(len(values)) for code, values in y.items()}
    asked = source.request.train_samples
    if asked is not None and asked < len(y[TRAIN]):
        # Chosen before reading, so that the other samples need not be decoded and kept in memory.
        rows[TRAIN] = hold_out(y[TRAIN], asked)
    codes = torch.cat([torch.full((len(chosen),), code) for code, chosen in rows.items()])
    chosen_y = torch.cat([y[code][chosen] for code, chosen in rows.items()])
    return Raw(_faces(parts, rows, source), chosen_y, codes, attributes, fitted=True)


def _chosen(source: Source, known: Sequence[str]) -> list[str]:
    if source.interface.task != Task.TRANSLATION:
        raise DatasetError(
            "celeba has attributes, which are a generator's domains, but the teacher is a classifier: upload its "
            "classes as folders of images",
            field="dataset.mounted",
        )
    if source.request.class_order is not None:
        raise DatasetError("celeba has attributes: name and order them in attributes", field="dataset.class_order")
    chosen = source.request.attributes
    if chosen is None or len(chosen) != source.classes:
        raise DatasetError(
            f"attributes must name the {source.classes} domains of the teacher in its order, of {', '.join(known)}",
            field="dataset.attributes",
        )
    for name in chosen:
        if name not in known:
            raise DatasetError(
                f"celeba has no attribute {shown(name)}: it has {', '.join(known)}", field="dataset.attributes"
            )
    return chosen


def _faces(parts: Mapping[int, CelebA], rows: Mapping[int, Tensor], source: Source) -> Rows:
    """The faces, in the order of `rows`."""
    chosen = [(code, row) for code in parts for row in rows[code].tolist()]
    paths = [_path(parts[code], row) for code, row in chosen]
    listing = [(path, path.stat()) for path in paths]
    identity = "\n".join(f"{path} {status.st_size} {status.st_mtime_ns}" for path, status in listing)

    def each() -> Iterator[Encoded]:
        for place, (path, status) in enumerate(listing):
            yield Encoded(place, path.name, status.st_size, Extent(str(path), 0, status.st_size))

    def again(face: Encoded) -> tuple[Encoded, Image.Image]:
        code, row = chosen[face.row]
        return replace(face, content=paths[face.row].read_bytes()), parts[code][row][0]

    encoded_bytes = sum(status.st_size for _, status in listing)
    return decode_images(ImageFiles(identity, len(chosen), encoded_bytes, each, again), source)


def _path(part: CelebA, row: int) -> Path:
    return Path(str(part.root), str(part.base_folder), "img_align_celeba", str(part.filename[row]))


def _rgb(image: Any) -> Image.Image:
    return to_picture(image, CHANNELS)


MOUNTED: Mapping[str, Mounted] = {
    "cifar10": Mounted(_read_cifar10, "cifar-10-batches-py, which is in cifar-10-python.tar.gz,"),
    "cifar100": Mounted(_read_cifar100, "cifar-100-python, which is in cifar-100-python.tar.gz,"),
    "svhn": Mounted(_read_svhn, "svhn/train_32x32.mat and svhn/test_32x32.mat"),
    "celeba": Mounted(
        _read_celeba,
        "celeba with img_align_celeba (unpacked), list_attr_celeba.txt, list_eval_partition.txt, "
        "identity_CelebA.txt, list_bbox_celeba.txt and list_landmarks_align_celeba.txt",
    ),
}
"""By their names in the request."""
