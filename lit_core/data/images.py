"""Image folders in an archive: one folder a class, perhaps train/val/test above, perhaps one folder around all."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_core.data.archives import Member, shown, walk
from lit_core.data.errors import DatasetError
from lit_core.data.pixels import MODES, crop_middle, image_to_raw, resize
from lit_core.data.source import Limits, Raw, Source
from lit_core.data.splits import NAMES, SPLITS, TRAIN, empty_split

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})
IGNORED_TEXTS = frozenset({"readme", "license", "licence", "copying", "citation"})
IGNORED_TEXT_SUFFIXES = frozenset({"", ".md", ".txt", ".rst"})
EXPECTED = "CLASS/IMAGE or train|val|test/CLASS/IMAGE, perhaps with one folder around all"


@dataclass(frozen=True)
class _Image:
    name: str
    code: int | None
    """The split's code; None: the archive has no splits."""
    label: str


def read_image_folders(source: Source) -> Raw:
    """Raises DatasetError. The archive is walked twice, so that each image is decoded straight into its place."""
    if source.channels not in MODES:
        raise DatasetError(
            f"images give 1 or 3 channels, but the teacher takes {source.channels}: upload arrays (npz or safetensors)"
        )
    files, folders = _listing(source)
    images = _placed(files, folders)
    classes = _classes({image.label for image in images}, source)
    images.sort(key=lambda image: (image.code or 0, image.name))
    output = {name: number for number, name in enumerate(classes)}
    y = torch.tensor([output[image.label] for image in images])
    codes = None if images[0].code is None else torch.tensor([image.code for image in images])
    x = decode_all({image.name: row for row, image in enumerate(images)}, source)
    return Raw(x, y, codes, classes, fitted=True)


# --- which files there are ----------------------------------------------------------------------------------


def is_ignored(name: str) -> bool:
    """Left behind by systems or written for people: see docs/datasets.md."""
    path = PurePosixPath(name.lower())
    if any(part.startswith(".") or part == "__macosx" for part in path.parts):
        return True
    return path.name in IGNORED_NAMES or (path.stem in IGNORED_TEXTS and path.suffix in IGNORED_TEXT_SUFFIXES)


def _listing(source: Source) -> tuple[list[str], list[str]]:
    """Names of image files and of folders."""
    files: dict[str, None] = {}
    folders = []
    for member in walk(source.path, source.limits):
        if is_ignored(member.name):
            continue
        if member.is_folder:
            folders.append(member.name)
        else:
            if PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
                raise DatasetError(
                    f"{shown(member.name)} is no image: only {', '.join(SUFFIXES)} may lie in the archive "
                    "(a README or LICENSE is ignored)",
                    member=shown(member.name),
                )
            if member.name in files:
                raise DatasetError(f"{shown(member.name)} occurs twice in the archive", member=shown(member.name))
            files[member.name] = None
    if not files:
        raise DatasetError(f"the archive has no images: expected {EXPECTED}", field="dataset.upload")
    return list(files), folders


def _placed(files: list[str], folders: list[str]) -> list[_Image]:
    """Split and class of each image, read from the folders that it lies in."""
    paths = {name: tuple(name.split("/")) for name in files}
    wrapped = _is_wrapped(paths.values())
    inner = {name: parts[1:] if wrapped else parts for name, parts in paths.items()}
    named_as_splits = {name for name, parts in inner.items() if parts[0].lower() in NAMES}
    has_splits = any(len(inner[name]) == 3 for name in named_as_splits)
    # With splits all images lie in one; without, images right below train, val and test alone have no class.
    must_be_split = has_splits or len(named_as_splits) == len(inner)
    for name, parts in inner.items():
        if len(parts) != (3 if must_be_split else 2) or (must_be_split and name not in named_as_splits):
            raise DatasetError(f"{shown(name)} lies in the wrong place: expected {EXPECTED}", member=shown(name))
    if not has_splits:
        return [_Image(name, None, parts[0]) for name, parts in inner.items()]
    images = [_Image(name, NAMES[parts[0].lower()], parts[1]) for name, parts in inner.items()]
    _check_split_folders(images, folders, 1 if wrapped else 0)
    return images


def _is_wrapped(paths: Iterable[tuple[str, ...]]) -> bool:
    """Whether one folder lies around everything: it's alone at the top, and no split unless four levels deep."""
    tops, depths = set(), set()
    for parts in paths:
        tops.add(parts[0].lower())
        depths.add(len(parts))
    return len(tops) == 1 and min(depths) >= 3 and (not tops <= NAMES.keys() or min(depths) == 4)


def _check_split_folders(images: list[_Image], folders: list[str], level: int) -> None:
    """A folder train, val or test without images is an empty split, not an absent one."""
    present = {image.code for image in images} | {None}
    for folder in folders:
        parts = folder.split("/")
        code = NAMES.get(parts[level].lower()) if len(parts) > level else None
        if code not in present and code is not None:
            raise empty_split(SPLITS[code])
    if TRAIN not in present:
        raise empty_split(SPLITS[TRAIN])


def _classes(folders: set[str], source: Source) -> list[str]:
    order = source.request.class_order
    if order is None:
        if len(folders) != source.classes:
            raise DatasetError(
                f"the archive has {len(folders)} class folders ({_some(folders)}), but the teacher has "
                f"{source.classes} classes: give one folder a class",
                field="dataset.upload",
            )
        return sorted(folders)
    for name in order:
        if name not in folders:
            raise DatasetError(
                f'class_order names "{shown(name)}", which has no folder in the archive; '
                f"the folders are {_some(folders)}",
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


def _some(names: set[str]) -> str:
    return ", ".join(shown(name) for name in sorted(names)[:10]) + (", …" if len(names) > 10 else "")


# --- what is in them ----------------------------------------------------------------------------------------


def decode_all(rows: dict[str, int], source: Source) -> Tensor:
    """(N, C, H, W) uint8; the image `name` goes to `rows[name]`."""
    x: Tensor | None = None
    first = ""
    for member in walk(source.path, source.limits):
        if member.is_folder or member.name not in rows:
            continue
        pixels = decode(member, source.channels, source.limits)
        try:
            pixels = crop_middle(pixels, source.request.crop)
        except ValueError as failure:
            name = shown(member.name)
            raise DatasetError(f"{name} {failure}", field="dataset.crop", member=name) from failure
        if source.request.size is not None:
            pixels = resize(pixels[None], source.request.size)[0]
        if x is None:
            x, first = _allocate(len(rows), pixels, source.limits), member.name
        if pixels.shape != x.shape[1:]:
            raise DatasetError(
                f"{shown(member.name)} has {_size(pixels)} pixels (height x width), but {shown(first)} has {_size(x)}: "
                "set dataset.size to resize all images",
                field="dataset.size",
                member=shown(member.name),
            )
        x[rows[member.name]] = pixels
    if x is None:
        raise DatasetError("the archive has changed since it was listed")
    return x


def decode(member: Member, channels: int, limits: Limits) -> Tensor:
    """(C, H, W) uint8. Raises DatasetError naming the member."""
    content = member.read()
    name = shown(member.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > limits.image_pixels:
                    raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
                return image_to_raw(image, channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as failure:
        raise DatasetError(
            f"{name} has more pixels than the {limits.image_pixels} that are read: make it smaller", member=name
        ) from failure
    except UnidentifiedImageError as failure:
        raise DatasetError(f"{name} is no image that can be read: give {', '.join(FORMATS)}", member=name) from failure
    except MemoryError:
        raise
    except Exception as failure:  # Pillow's decoders raise anything on a broken file, and its name must be told
        raise DatasetError(
            f"{name} cannot be decoded ({shown(str(failure) or type(failure).__name__)}): replace or remove it",
            member=name,
        ) from failure


def _allocate(samples: int, pixels: Tensor, limits: Limits) -> Tensor:
    if samples * pixels.numel() > limits.total_bytes:
        raise DatasetError(
            f"{samples} images of {_size(pixels)} take {samples * pixels.numel()} bytes decoded, "
            f"more than {limits.total_bytes}: set a smaller dataset.size",
            field="dataset.size",
        )
    return torch.empty(samples, *pixels.shape, dtype=torch.uint8)


def _size(x: Tensor) -> str:
    return f"{x.shape[-2]}x{x.shape[-1]}"
