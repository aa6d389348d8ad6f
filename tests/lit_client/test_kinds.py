"""Whether a file is a teacher or a data set."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lit_client.kinds import kind_of
from lit_spec.states import UploadKind


def zipped(*names: str) -> object:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


FILES = {
    "torch.save": (lambda path: torch.save({"a": torch.ones(1)}, path), UploadKind.TEACHER),
    "torch.save as before 1.6": (
        lambda path: torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False),
        UploadKind.TEACHER,
    ),
    "weights in safetensors": (lambda path: save_file({"a": np.ones(1)}, path), UploadKind.TEACHER),
    "a student's bundle": (zipped("model.safetensors", "config.json"), UploadKind.TEACHER),
    "samples in safetensors": (lambda path: save_file({"x": np.ones(1), "y": np.ones(1)}, path), UploadKind.DATASET),
    "npz": (lambda path: np.savez(path.open("wb"), x=np.ones(1)), UploadKind.DATASET),
    "images": (zipped("cat/1.png", "dog/1.png"), UploadKind.DATASET),
    "CSV": (lambda path: path.write_text("1,a text"), UploadKind.DATASET),
    "JSON lines": (lambda path: path.write_text('{"text": "a"}'), UploadKind.DATASET),
    "nothing": (lambda path: path.write_bytes(b""), UploadKind.DATASET),
    "a broken zip": (lambda path: path.write_bytes(b"PK\x03\x04" + b"PK\x05\x06" + bytes(18)), UploadKind.DATASET),
    "a broken header": (lambda path: path.write_bytes((5).to_bytes(8, "little") + b"{nope"), UploadKind.DATASET),
}


@pytest.mark.parametrize("name", FILES)
def test_the_content_tells(tmp_path: Path, name: str) -> None:
    write, kind = FILES[name]
    write(tmp_path / "file")  # type: ignore[operator]
    assert kind_of(tmp_path / "file") == kind


def test_a_folder_with_a_model_is_a_student(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == UploadKind.DATASET
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert kind_of(tmp_path) == UploadKind.TEACHER
