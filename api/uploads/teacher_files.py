"""Checks the first bytes of a teacher's file. The inspection checks the content."""

from __future__ import annotations

import json
from typing import BinaryIO

from lit_spec.networks.teacher_files import HEADER_BYTES, TENSORS, too_long_header, too_many_tensors

METADATA = "__metadata__"
PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of torch.save begin: a zip archive, or a pickle in the old format."""


def find_fault(file: BinaryIO, size: int) -> str | None:
    """Why a file of `size` bytes can't be a teacher, as a sentence; None if it can."""
    start = file.read(8)
    if start.startswith(PICKLES):
        return None
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        return "the file is neither a safetensors file nor a .pt file of torch.save: send one of these"
    if length > HEADER_BYTES:
        return too_long_header(length)
    return _find_fault_in_header(file.read(length), size - 8 - length)


def _find_fault_in_header(header: bytes, tensor_bytes: int) -> str | None:
    """The same for a safetensors header that is followed by `tensor_bytes` bytes."""
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        return "the safetensors header is not a JSON object, so the file is damaged: save it again"
    if (tensors := len(entries.keys() - {METADATA})) > TENSORS:
        return too_many_tensors(tensors)
    ends = [entry.get("data_offsets", [0, 0])[-1] for name, entry in entries.items() if _is_tensor(name, entry)]
    if max(ends, default=0) != tensor_bytes:
        return "the safetensors header and the file differ in length, so the file is cut off or damaged: save it again"
    return None


def _is_tensor(name: str, entry: object) -> bool:
    if name == METADATA or not isinstance(entry, dict):
        return False
    offsets = entry.get("data_offsets")
    return isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(offset, int) for offset in offsets)
