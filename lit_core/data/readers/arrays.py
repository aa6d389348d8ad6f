"""Data sets of arrays: npz and safetensors files with x, y and optionally split."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import IO, Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_core.data.errors import DatasetError, damage_is_an_error, shown
from lit_core.data.labels import NO_LABEL, output_names
from lit_core.data.pixels import dtype_name, to_channels_first, to_pixels
from lit_core.data.probe import Probe
from lit_core.data.readers.archives import Member, walk
from lit_core.data.readers.unlabelled import OutputLabels, whole_numbers
from lit_core.data.source import Limits, Raw, Source
from lit_core.data.splits import NAMES, SPLITS
from lit_core.data.store.mapped import ArrayPlace, mapped_images
from lit_core.data.store.rows import StoredRows, pieces
from lit_core.data.text_preprocessing import resolve_text_preprocessing
from lit_spec import Modality, Task
from lit_spec.shown import some_shown

Array = Tensor | NDArray[Any]
ARRAYS = ("x", "y", "split")
READ_BYTES = 1 << 20


def read_npz(source: Source) -> Raw:
    """`numpy.savez(path, x=…, y=…[, split=…])`, compressed or not. Raises DatasetError."""
    limits = _for_arrays(source.limits)
    names = [member.name.removesuffix(".npy") for member in walk(source.path, limits)]
    _check_names(names)
    arrays: dict[str, Array] = {}
    rows: StoredRows | None = None
    for member in walk(source.path, limits):
        name = member.name.removesuffix(".npy")
        rows = _stored_npy(member, source) if name == "x" else rows
        if name != "x" or rows is None:
            arrays[name] = _native(name, _read_npy(member, limits))
    return _to_raw(arrays, rows, source)


def read_safetensors(source: Source) -> Raw:
    """Tensors x, y and optionally split. Raises DatasetError."""
    with (
        damage_is_an_error("the safetensors file", "save it again"),
        safetensors.safe_open(source.path, framework="pt") as file,
    ):
        names = list(file.keys())
        _check_names(names)
        rows = _stored_safetensors(source)
        arrays: dict[str, Array] = {name: file.get_tensor(name) for name in names if name != "x" or rows is None}
    return _to_raw(arrays, rows, source)


def _stored_safetensors(source: Source) -> StoredRows | None:
    """x, if it can be read by rows. The file's header has been checked."""
    with source.path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        described = json.loads(file.read(length))["x"]
    dtype = {"U8": torch.uint8, "F32": torch.float32}.get(described["dtype"])
    if dtype is None:
        return None
    place = ArrayPlace(source.path, 8 + length + described["data_offsets"][0], tuple(described["shape"]), dtype)
    return _checked(mapped_images(place, source))


def _stored_npy(member: Member, source: Source) -> StoredRows | None:
    """x, if it can be read by rows. Raises DatasetError for damage."""
    extent = member.extent()
    if extent is None or extent.deflated:
        return None
    with damage_is_an_error(shown(member.name), member=shown(member.name)), member.open() as file:
        shape, fortran, dtype = _npy_header(file, member.name)
        start = file.tell()
        known = {np.dtype("u1"): torch.uint8, np.dtype("<f4"): torch.float32}.get(dtype)
        if fortran or known is None or math.prod(shape) * dtype.itemsize != member.size - start:
            return None
        rows = mapped_images(ArrayPlace(source.path, extent.offset + start, shape, known), source)
        while rows is not None and file.read(READ_BYTES):
            continue  # to the end, where the checksum is compared
    return _checked(rows)


def _checked(rows: StoredRows | None) -> StoredRows | None:
    """Raises DatasetError for pixels that are not finite."""
    if rows is None or rows.dtype != torch.float32:
        return rows
    start = 0
    for piece in pieces(rows):
        wrong = piece.flatten(1).isfinite().all(dim=1).logical_not().nonzero()
        if len(wrong):
            sample = start + int(wrong[0])
            raise DatasetError(
                f"x has values that are not finite (as float32), first in sample {sample}: replace them", member="x"
            )
        start += len(piece)
    return rows


def is_npz(source: Source) -> bool:
    """Whether a zip file has arrays at its top level."""
    members = walk(source.path, _for_arrays(source.limits))
    return any(member.name.endswith(".npy") and "/" not in member.name for member in members)


def _for_arrays(limits: Limits) -> Limits:
    """Limits without one per member, because an array is as large as the data set."""
    return replace(limits, member_bytes=limits.total_bytes)


def _check_names(names: Iterable[str]) -> None:
    found = sorted(names)
    if "x" not in found:
        raise DatasetError(
            f"the array x is missing: the file must hold x, y (labels, if there are any) and perhaps split, but "
            f"holds {some_shown(found) or 'nothing'}",
            member="x",
        )
    for name in found:
        if name not in ARRAYS:
            raise DatasetError(
                f"the array {shown(name)} is unknown: the file must hold x, y and perhaps split, and nothing else; "
                "put all samples into x and y, and name their splits in split",
                member=shown(name),
            )
    if len(set(found)) != len(found):
        raise DatasetError(f"an array is in the file twice ({some_shown(found)}): save each once")


def _read_npy(member: Member, limits: Limits) -> NDArray[Any]:
    """Read one array directly into its memory. Never unpickles."""
    with damage_is_an_error(shown(member.name), member=shown(member.name)), member.open() as file:
        shape, fortran, dtype = _npy_header(file, member.name)
        size = math.prod(shape) * dtype.itemsize
        # Before memory is allocated, because the header may claim more data than the file has.
        if size != member.size - file.tell():
            raise DatasetError(
                f"{member.name} promises {size} bytes of data, but holds {member.size - file.tell()}: save it again",
                member=member.name,
            )
        if size > limits.memory_bytes:
            raise DatasetError(
                f"{member.name} takes {size} bytes, more than {limits.memory_bytes}, half of the worker's memory: save "
                "images of the network's size as uint8 or float32 with numpy.savez, which are read piece by piece, or "
                "give fewer samples",
                member=member.name,
            )
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, size, READ_BYTES):
            chunk = file.read(min(READ_BYTES, size - start))
            data[start : start + len(chunk)] = chunk
        if file.read(1):
            raise DatasetError(f"{member.name} is longer than its header says: save it again", member=member.name)
    return array.T if fortran else array


def _npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DatasetError(f"{name} has .npy version {version}: save plain arrays with numpy.savez", member=name)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[version](file)
    except MemoryError as failure:
        # numpy parses at most 10,000 bytes. What Python's parser lacks is room on its stack, for deep nesting.
        raise DatasetError(f"{name} has a header that is not numpy's: save it again", member=name) from failure
    if dtype.hasobject or dtype.names is not None or dtype.itemsize == 0:
        raise DatasetError(
            f"{name} has dtype {dtype}, which needs unpickling or is not a plain array: save numbers "
            "(and split as fixed-width text or integers)",
            member=name,
        )
    if any(extent < 0 for extent in shape):
        raise DatasetError(f"{name} has the shape {shape}: save it again", member=name)
    return shape, fortran, dtype


def _native(name: str, array: NDArray[Any]) -> Array:
    if array.dtype.kind in "US":
        return array
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as failure:
        raise DatasetError(f"{name} has dtype {array.dtype}: give plain numbers", member=name) from failure


def _to_raw(arrays: dict[str, Array], rows: StoredRows | None, source: Source) -> Raw:
    """`rows` is x, if it stays in the file. Removes entries of `arrays` once they are converted, so that memory never
    holds an array twice."""
    x = _inputs(arrays.pop("x"), source) if rows is None else rows
    y, notes = _labels(arrays.pop("y"), source) if "y" in arrays else (torch.full((len(x),), NO_LABEL), [])
    codes = _codes(arrays.pop("split"), len(y)) if "split" in arrays else None
    if len(x) != len(y):
        raise DatasetError(f"x has {len(x)} samples, but y has {len(y)} labels: give one per sample", member="y")
    names = source.request.class_order or output_names(y, source.classes)
    return Raw(x, y, codes, list(names), numbered=True, fitted=rows is not None, notes=notes)


def _inputs(x: Array, source: Source) -> Tensor:
    if x.ndim == 0 or (isinstance(x, Tensor) and x.numel() == 0):
        raise DatasetError(f"x has the shape {tuple(x.shape)}, so it has no samples: give some", member="x")
    if source.probe is not None:
        return _seen(x, source.probe)
    if source.interface.modality == Modality.TEXT:
        return _texts(x, source)
    if not isinstance(x, Tensor):
        raise DatasetError("x holds text: give uint8 or float32 pixels", member="x")
    try:
        return to_pixels(to_channels_first(x, source.channels))
    except ValueError as failure:
        raise DatasetError(f"x {failure}", member="x") from failure


def _seen(x: Array, probe: Probe) -> Tensor:
    """(N, 0): an inspection keeps nothing."""
    if not isinstance(x, Tensor):
        probe.see_texts(0, _as_texts(x))
    elif x.ndim == 2 and not x.is_floating_point():
        probe.see_indices(x)
    else:
        try:
            probe.see_array(x)
        except ValueError as failure:
            raise DatasetError(f"x {failure}", member="x") from failure
    return torch.empty(len(x), 0)


def _as_texts(x: NDArray[Any]) -> list[str]:
    if x.ndim != 1:
        raise DatasetError(f"x has the shape {x.shape}: it must be (N,), one text per sample", member="x")
    try:
        return [text.decode() if isinstance(text, bytes) else str(text) for text in x.tolist()]
    except UnicodeDecodeError as failure:
        raise DatasetError("x has a text that is not UTF-8: save texts, or UTF-8 bytes", member="x") from failure


def _texts(x: Array, source: Source) -> Tensor:
    """(N, L) vocabulary indices, from texts (N,) or from indices."""
    preprocessing = resolve_text_preprocessing(source.request, [])
    if not isinstance(x, Tensor):
        return preprocessing.from_texts(_as_texts(x))
    rows = source.interface.vocabulary_size
    if x.is_floating_point() or x.ndim != 2 or x.shape[1] != preprocessing.length:
        raise DatasetError(
            f"x has dtype {dtype_name(x.dtype)} and shape {tuple(x.shape)}: it must hold texts (N,), or integers "
            f"(N, {preprocessing.length}), places in the teacher's vocabulary (dataset.length sets the width)",
            member="x",
        )
    low, high = (int(bound) for bound in torch.aminmax(x.to(torch.int64)))
    if low < 0 or high >= rows:
        raise DatasetError(
            f"x has values {low}..{high}, but the teacher's embedding has rows 0..{rows - 1}: give only these",
            member="x",
        )
    return x.to(torch.uint8 if rows <= 256 else torch.int16)


def _labels(y: Array, source: Source) -> tuple[Tensor, list[str]]:
    """Labels (N,), or attributes (N, domains), and notes."""
    domains = source.interface.task == Task.TRANSLATION or source.probe is not None
    if domains and isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] > 1:
        return _attributes(y, source), []
    if isinstance(y, Tensor) and y.is_floating_point():
        whole = whole_numbers(y.reshape(-1).double().numpy(), lambda index: f"y[{index}]")
        y = torch.from_numpy(whole).reshape(y.shape)
    labels = OutputLabels(source)
    values = _integers("y", y, "the class of each sample as an integer").numpy()
    outputs = torch.from_numpy(labels.take(values, lambda index: f"y[{index}]"))
    return outputs, labels.notes()


def _attributes(y: Tensor, source: Source) -> Tensor:
    """(N, domains) float32 of zeros and ones."""
    if source.classes not in (None, y.shape[1]) or not bool(((y == 0) | (y == 1)).all()):
        raise DatasetError(
            f"y has the shape {tuple(y.shape)}: it must hold each sample's domain as an integer, or (N, "
            f"{source.classes}) zeros and ones, one column a domain of the teacher",
            member="y",
        )
    return y.float()


def _codes(split: Array, samples: int) -> Tensor:
    if isinstance(split, Tensor):
        codes = _integers("split", split, "0 (train), 1 (val) or 2 (test) for each sample")
    else:
        codes = _codes_of_text(split)
    if len(codes) != samples:
        raise DatasetError(f"split has {len(codes)} entries, but y has {samples}: give one per sample", member="split")
    outside = ((codes < 0) | (codes >= len(SPLITS))).nonzero()
    if len(outside):
        index = int(outside[0])
        value = int(codes[index]) if isinstance(split, Tensor) else repr(str(split[index]))
        raise DatasetError(
            f'split[{index}] is {value}: it must be "train", "val" or "test", or 0, 1 or 2',
            member=f"split[{index}]",
        )
    return codes


def _codes_of_text(split: NDArray[Any]) -> Tensor:
    """-1 for a text that is not a split."""
    if split.ndim != 1:
        raise DatasetError(f"split has the shape {split.shape}: it must be (N,)", member="split")
    names, places = np.unique(split, return_inverse=True)
    known: Mapping[str, int] = NAMES
    codes = [known.get(_text(name), -1) for name in names.tolist()]
    return torch.tensor(codes, dtype=torch.int64)[torch.from_numpy(places)]


def _text(name: str | bytes) -> str:
    return (name.decode("utf-8", "replace") if isinstance(name, bytes) else name).lower()


def _integers(name: str, array: Array, meaning: str) -> Tensor:
    """(N,) int64 from integers of any width, shaped (N,) or (N, 1)."""
    if not isinstance(array, Tensor):
        raise DatasetError(f"{name} holds text: it must be {meaning}", member=name)
    if array.is_floating_point() or array.is_complex() or array.dtype == torch.bool:
        raise DatasetError(f"{name} has dtype {dtype_name(array.dtype)}: it must be {meaning}", member=name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array.squeeze(1)
    if array.ndim != 1:
        raise DatasetError(
            f"{name} has the shape {tuple(array.shape)}: it must be (N,), {meaning} (one-hot rows: take their argmax)",
            member=name,
        )
    return array.to(torch.int64)
