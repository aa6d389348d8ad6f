"""Images in an archive: one folder per class, or no folders and no labels. There may be train/val/test folders above,
and folders around everything.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_core.data.errors import DatasetError, damage_is_an_error, shown
from lit_core.data.labels import NO_LABEL
from lit_core.data.pictures import FORMATS, MODES, decoded
from lit_core.data.pixels import picture_to_raw
from lit_core.data.probe import Probe
from lit_core.data.readers.archives import Member, walk
from lit_core.data.readers.detection import detection_error
from lit_core.data.readers.unlabelled import Unlabelled
from lit_core.data.source import Limits, Raw, Source
from lit_core.data.splits import NAMES, SPLITS, TRAIN, empty_split
from lit_core.data.store.decoding import ImageFiles, decode_images, identity_of
from lit_core.data.store.encoded import Encoded
from lit_core.data.store.rows import Rows
from lit_spec.shown import some_shown
from lit_spec.system_files import is_system_file

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
)
IGNORED_TEXTS = frozenset({"readme", "license", "licence", "copying", "citation"})
IGNORED_TEXT_SUFFIXES = frozenset({"", ".md", ".txt", ".rst"})
EXPECTED = "CLASS/IMAGE or train|val|test/CLASS/IMAGE, or without labels IMAGE or train|val|test/IMAGE"


@dataclass(frozen=True)
class _Image:
    name: str
    code: int | None
    """The split's code; None: the archive has no splits."""
    label: str
    """The class folder, with the folders that it is in; empty for an image without a class folder."""


def read_image_folders(source: Source) -> Raw:
    """The archive is walked twice, so that each image is decoded directly into its place. Raises DatasetError."""
    if source.channels not in MODES:
        raise DatasetError(
            f"images give 1 or 3 channels, but the teacher takes {source.channels}: upload arrays (npz or safetensors)"
        )
    files, folders = _listing(source)
    images = _placed(files, folders, trains=source.trains)
    found, notes = _class_folders(images, source)
    classes = _classes(found, source)
    images.sort(key=lambda image: (image.code or 0, image.name))
    output = {name: number for number, name in enumerate(classes)} if found else {}
    y = torch.tensor([output.get(image.label, NO_LABEL) for image in images])
    codes = None if images[0].code is None else torch.tensor([image.code for image in images])
    x = decode_all({image.name: row for row, image in enumerate(images)}, source)
    return Raw(x, y, codes, classes, fitted=True, notes=notes)


# --- which files there are ----------------------------------------------------------------------------------


def is_ignored(name: str) -> bool:
    """Files of operating systems, or for people: see docs/datasets.md."""
    path = PurePosixPath(name.lower())
    return is_system_file(name) or (path.stem in IGNORED_TEXTS and path.suffix in IGNORED_TEXT_SUFFIXES)


def _listing(source: Source) -> tuple[list[str], list[str]]:
    """Names of image files and of folders."""
    files: dict[str, None] = {}
    folders = []
    for member in walk(source.path, source.limits):
        if is_ignored(member.name):
            if source.probe is not None:
                source.probe.skip(member.name)
            continue
        if member.is_folder:
            folders.append(member.name)
        elif not is_image(member.name):
            raise detection_error(_others(source)) or _not_an_image(member)
        elif member.name in files:
            raise DatasetError(f"{shown(member.name)} occurs twice in the archive", member=shown(member.name))
        else:
            files[member.name] = None
    if not files:
        raise DatasetError(f"the archive has no images: expected {EXPECTED}", field="dataset.upload")
    return list(files), folders


def is_image(name: str) -> bool:
    """Whether the suffix is one of an image that is read."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _others(source: Source) -> Iterator[Member]:
    """The files that are not images."""
    for member in walk(source.path, source.limits):
        if not (member.is_folder or is_ignored(member.name) or is_image(member.name)):
            yield member


def _not_an_image(member: Member) -> DatasetError:
    return DatasetError(
        f"{shown(member.name)} is not an image: the archive may have only {', '.join(SUFFIXES)} (a README or LICENSE "
        "is ignored)",
        member=shown(member.name),
    )


def _placed(files: list[str], folders: list[str], *, trains: bool) -> list[_Image]:
    """Split and class of each image, from the folders that it is in.

    If a split (or, without splits, the archive) has class folders, all its images must be in them.
    """
    paths = {name: tuple(name.split("/")) for name in files}
    wrappers = _wrappers(paths.values())
    inner = {name: parts[wrappers:] for name, parts in paths.items()}
    named_as_splits = [parts for parts in inner.values() if _code(parts) is not None]
    has_splits = any(len(parts) >= 3 for parts in named_as_splits) or len(named_as_splits) == len(inner)
    split_parts = 1 if has_splits else 0
    images = []
    for name, parts in inner.items():
        code = _code(parts) if has_splits else None
        if has_splits and code is None:
            raise _misplaced(name)
        images.append(_Image(name, code, "/".join(parts[split_parts:-1])))
    _check_class_folders(images)
    _check_splits_are_outside(images)
    if has_splits:
        _check_split_folders(images, folders, next(iter(paths.values()))[:wrappers], trains=trains)
    return images


def _code(parts: tuple[str, ...]) -> int | None:
    """The split that the outermost folder is named after."""
    return NAMES.get(parts[0].lower()) if len(parts) > 1 else None


def _wrappers(paths: Collection[tuple[str, ...]]) -> int:
    """How many folders contain everything, each alone in the one before.

    One that is named as a split is a split, unless there are splits in it, with class folders of their own.
    """
    first, depth = next(iter(paths)), min(map(len, paths))
    for level in range(depth - 1):
        if any(parts[level] != first[level] for parts in paths):
            return level
        if first[level].lower() in NAMES and not (
            depth - level >= 4 and all(parts[level + 1].lower() in NAMES for parts in paths)
        ):
            return level
    return depth - 1


def _check_class_folders(images: list[_Image]) -> None:
    """A folder is a class if it has images, and then it has no folders with images. Raises DatasetError."""
    by_split: dict[int | None, dict[str, str]] = {}
    for image in images:
        by_split.setdefault(image.code, {}).setdefault(image.label, image.name)
    for classes in by_split.values():
        if "" in classes and len(classes) > 1:
            raise _misplaced(classes[""])
        for label, name in classes.items():
            outer = label
            while outer := outer.rpartition("/")[0]:
                if outer in classes:
                    raise DatasetError(
                        f"{shown(name)} lies in a folder inside of a class, because {shown(classes[outer])} is an "
                        "image beside that folder: put all images of a class into one folder",
                        member=shown(name),
                    )


def _check_splits_are_outside(images: list[_Image]) -> None:
    """CLASS/train/IMAGE would make each split of a class a class of its own. Raises DatasetError."""
    parts = [image.label.rpartition("/") for image in images]
    if all(outer and inner.lower() in NAMES for outer, _, inner in parts):
        name = shown(images[0].name)
        raise DatasetError(
            f"{name} lies in a split inside of a class: put the folders of the splits around those of the classes, as "
            "train/CLASS/IMAGE",
            member=name,
        )


def _misplaced(name: str) -> DatasetError:
    return DatasetError(
        f"{shown(name)} lies in the wrong place: expected {EXPECTED}, perhaps with folders around all; where some "
        "images lie in class folders, all of that split must",
        member=shown(name),
    )


def _check_split_folders(images: list[_Image], folders: list[str], around: tuple[str, ...], *, trains: bool) -> None:
    """A folder train, val or test without images is an empty split, not a missing one."""
    present = {image.code for image in images} | {None}
    for folder in folders:
        parts = tuple(folder.split("/"))
        code = NAMES.get(parts[len(around)].lower()) if parts[: len(around)] == around != parts else None
        if code not in present and code is not None:
            raise empty_split(SPLITS[code])
    if trains and TRAIN not in present:
        raise empty_split(SPLITS[TRAIN])


def _class_folders(images: list[_Image], source: Source) -> tuple[set[str], list[str]]:
    """The folders that are classes, without the one that `dataset.unlabelled` names, and notes. Raises DatasetError."""
    unlabelled = Unlabelled(source.request)
    first: dict[str, str] = {}
    for image in images:
        if image.label:
            first.setdefault(image.label, image.name)
    found = {label for label, name in first.items() if not unlabelled.is_none(label, partial(shown, name))}
    nested = {name for name in found if "/" in name}
    listed = some_shown(sorted(nested))
    notes = [f"class folders inside of other folders are named by their path: {listed}"] if nested else []
    return found, [*notes, *unlabelled.notes()]


def _classes(folders: set[str], source: Source) -> list[str]:
    """Names of the outputs: the class folders in the order of the request; numbers if there are no folders."""
    order = source.request.class_order
    if not folders:
        return list(order or (str(output) for output in range(source.classes or 0)))
    if order is None:
        if source.classes not in (None, len(folders)):
            raise DatasetError(
                f"the archive has {len(folders)} class folders ({some_shown(sorted(folders))}), but the teacher has "
                f"{source.classes} classes: give one folder a class",
                field="dataset.upload",
            )
        return sorted(folders)
    for name in order:
        if name not in folders and source.trains:
            raise DatasetError(
                f'class_order names "{shown(name)}", which has no folder in the archive; '
                f"the folders are {some_shown(sorted(folders))}",
                field="dataset.class_order",
                member=shown(name),
            )
    for name in sorted(folders - set(order)):
        raise DatasetError(
            f'class_order lacks "{shown(name)}", which is a folder of the archive: name every class folder',
            field="dataset.class_order",
            member=shown(name),
        )
    return list(order)


# --- pixels -------------------------------------------------------------------------------------------------


def decode_all(rows: dict[str, int], source: Source) -> Rows:
    """(N, C, H, W) uint8; the image `name` goes to `rows[name]`."""
    if source.probe is not None:
        return _seen(rows, source, source.probe)

    def members() -> Iterator[Encoded]:
        for member in walk(source.path, source.limits):
            if not member.is_folder and member.name in rows:
                yield Encoded(rows[member.name], member.name, member.size, member.extent() or member.read())

    def again(image: Encoded) -> tuple[Encoded, Image.Image]:
        if isinstance(image.content, bytes):
            member = member_of(image.name, image.content)
            return image, decode(member, source.channels, source.limits)
        for member in walk(source.path, source.limits):
            if member.name == image.name:
                content = member.read()
                picture = decode(member_of(image.name, content), source.channels, source.limits)
                return replace(image, content=content), picture
        raise DatasetError("the archive has changed since it was listed")

    in_order = sorted(rows, key=rows.__getitem__)
    files = ImageFiles(
        identity_of(source.path, in_order), len(rows), source.path.stat().st_size, each=members, decode=again
    )
    return decode_images(files, source)


def _seen(rows: dict[str, int], source: Source, probe: Probe) -> Tensor:
    """(N, 0): an inspection keeps nothing."""
    for member in walk(source.path, source.limits):
        if probe.is_over:
            break
        if not member.is_folder and member.name in rows:
            with faults_seen(source):
                picture = decode(member, source.channels, source.limits)
                probe.see_image(rows[member.name], picture_to_raw(picture))
    return torch.empty(len(rows), 0)


def member_of(name: str, content: bytes) -> Member:
    """An image whose bytes have been read."""
    return Member(name, len(content), is_folder=False, open=partial(io.BytesIO, content))


@contextmanager
def faults_seen(source: Source) -> Iterator[None]:
    """An inspection collects the samples that can't be read."""
    try:
        yield
    except DatasetError as fault:
        if source.probe is None:
            raise
        source.probe.see_fault(fault)


def decode(member: Member, channels: int, limits: Limits) -> Image.Image:
    """In grey or RGB. Raises DatasetError naming the member."""
    content = member.read()
    name = shown(member.name)
    with damage_is_an_error(name, "replace or remove it", member=name):
        try:
            return decoded(content, channels, limits.image_pixels)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as failure:
            raise DatasetError(
                f"{name} has more pixels than the {limits.image_pixels} that are read: make it smaller", member=name
            ) from failure
        except UnidentifiedImageError as failure:
            raise DatasetError(f"{name} can't be read as an image: give {', '.join(FORMATS)}", member=name) from failure
