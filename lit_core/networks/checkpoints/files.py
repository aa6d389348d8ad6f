"""Reading checkpoint files: safetensors, and what torch.save writes."""

from __future__ import annotations

import pickletools
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file

from lit_core.networks.checkpoints import pickles
from lit_core.zip_directory import directory_bytes
from lit_spec.networks.architecture import TeacherFormat
from lit_spec.networks.teacher_files import (
    DIRECTORY_BYTES,
    HEADER_BYTES,
    MEMBERS,
    PICKLE_BYTES,
    too_long_header,
    too_many_tensors,
)

SAVE = "save model.state_dict() instead"


class TeacherError(Exception):
    """The file is not a readable teacher. The message says what to do."""

    def __init__(self, message: str, field: str = "teacher") -> None:
        super().__init__(message)
        self.field = field


def read_checkpoint(path: Path) -> tuple[TeacherFormat, Any]:
    """The format, and all that the file holds. Raises TeacherError."""
    found = _format(path)
    return found, _load_safetensors(path) if found == TeacherFormat.SAFETENSORS else _load_pt(path)


def _format(path: Path) -> TeacherFormat:
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:9] == b"{":
        return TeacherFormat.SAFETENSORS
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return TeacherFormat.PT
    raise TeacherError("the file is neither safetensors nor a .pt file: save model.state_dict() as one of them")


def _load_safetensors(path: Path) -> Any:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > HEADER_BYTES:
        raise TeacherError(too_long_header(header_bytes))
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError) as failure:
        raise TeacherError(f"the safetensors file cannot be read: {failure}") from failure


def _load_pt(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _check_zip(path)
        elif tarfile.is_tarfile(path):
            # torch would unpack it.
            raise TeacherError(f"the file is a tar archive, as torch wrote before 2017: {SAVE}")
        else:
            _check_pickles(path)
        with warnings.catch_warnings():
            # torch warns that it doesn't find the source of classes that are skipped.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=pickles)
    except TeacherError:
        raise
    except Exception as failure:
        # torch and pickle raise anything for a damaged file.
        # Memory runs out where a damaged file names a length that it doesn't have.
        reason = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
        raise TeacherError(f"the .pt file cannot be read (is it whole?): {reason}") from failure


def _check_zip(path: Path) -> None:
    """Look at the archive before torch does. Raises TeacherError."""
    if (size := directory_bytes(path)) > DIRECTORY_BYTES:
        raise TeacherError(f"the .pt file's directory has {size} bytes, but at most {DIRECTORY_BYTES} are read: {SAVE}")
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    if len(sizes) > MEMBERS:
        raise TeacherError(too_many_tensors(len(sizes)))
    if any("/code/" in name or name.endswith("constants.pkl") for name in sizes):
        raise TeacherError(f"the file is TorchScript, which is not accepted: {SAVE}")
    found = [size for name, size in sizes.items() if name.endswith("data.pkl")]
    if not found:
        raise TeacherError(f"the zip file is no .pt file of torch.save: {SAVE}")
    if (size := max(found)) > PICKLE_BYTES:
        raise _too_long_pickle()


def _check_pickles(path: Path) -> None:
    """The same for torch's old format: five pickles and then the weights. Nothing is unpickled. Raises TeacherError."""
    with path.open("rb") as file:
        for _ in range(5):
            for _, _, place in pickletools.genops(file):
                if (place or 0) > PICKLE_BYTES:
                    raise _too_long_pickle()


def _too_long_pickle() -> TeacherError:
    return TeacherError(f"the .pt file has more than {PICKLE_BYTES} bytes beside its weights: {SAVE}")
