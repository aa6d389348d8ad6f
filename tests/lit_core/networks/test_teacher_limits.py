"""What a teacher's file may hold beside its weights: more is refused before a library reads it."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from lit_core.networks.teacher import TeacherError, read_teacher
from lit_spec import JobError
from lit_spec.networks.teacher_files import DIRECTORY_BYTES, HEADER_BYTES, MEMBERS, PICKLE_BYTES, TENSORS


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(TeacherError) as caught:
        read_teacher(path)
    return str(caught.value)


def safetensors(tensors: int) -> bytes:
    entries = {f"{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(tensors)}
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(tensors)


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def old_format(state: bytes) -> bytes:
    """torch's format before 1.6: three pickles, and the state dict's."""
    start = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    return b"".join(pickle.dumps(value, 2) for value in start) + state


def test_a_safetensors_header_of_too_many_entries_is_refused(tmp_path: Path) -> None:
    assert f"at most {TENSORS}" in refusal(tmp_path / "file", safetensors(TENSORS + 1))


def test_a_safetensors_header_of_too_many_bytes_is_refused_by_its_length_alone(tmp_path: Path) -> None:
    header = b'{"__metadata__":' + b"[" * HEADER_BYTES  # which would not be JSON, if somebody read it
    content = len(header).to_bytes(8, "little") + header
    assert f"at most {HEADER_BYTES}" in refusal(tmp_path / "file", content)


@pytest.mark.long
def test_a_million_names_end_an_inspection_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(safetensors(1_000_000))
    command = [sys.executable, "-m", "lit_core.trainer.inspect", str(tmp_path / "file"), str(tmp_path), "--cpu", "60"]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == 1
    assert f"at most {HEADER_BYTES}" in JobError.model_validate_json(ended.stdout).detail


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path) -> None:
    members = {"a/data.pkl": pickle.dumps({}, 2)} | {f"a/data/{i}": b"" for i in range(MEMBERS)}
    assert f"at most {TENSORS}" in refusal(tmp_path / "file", zipped(members))


def test_an_archive_with_too_long_a_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    names = DIRECTORY_BYTES // 60_000 + 1
    members = {"a/data.pkl": pickle.dumps({}, 2)} | {f"a/{i}" + "x" * 60_000: b"" for i in range(names)}
    assert f"at most {DIRECTORY_BYTES}" in refusal(tmp_path / "file", zipped(members))


def test_an_archive_with_too_long_a_pickle_is_refused(tmp_path: Path) -> None:
    content = zipped({"a/data.pkl": b"\x80\x02" + b"N0" * (PICKLE_BYTES // 2) + b"}."})
    assert f"more than {PICKLE_BYTES} bytes" in refusal(tmp_path / "file", content)


@pytest.mark.long
def test_too_long_a_pickle_of_the_old_format_is_refused(tmp_path: Path) -> None:
    content = old_format(b"\x80\x02" + b"N0" * (PICKLE_BYTES // 2) + b"}.")
    assert f"more than {PICKLE_BYTES} bytes" in refusal(tmp_path / "file", content)


def test_a_pickle_that_names_one_tensor_too_often_is_refused(tmp_path: Path) -> None:
    tensor = torch.zeros(1)
    torch.save({str(i): tensor for i in range(TENSORS + 1)}, tmp_path / "saved")
    assert f"at most {TENSORS}" in refusal(tmp_path / "file", (tmp_path / "saved").read_bytes())


@pytest.mark.parametrize("old", [False, True])
def test_weights_are_not_counted(tmp_path: Path, old: bool) -> None:
    weights = {"w": torch.zeros(PICKLE_BYTES // 4 + 1000)}
    torch.save(weights, tmp_path / "saved", _use_new_zipfile_serialization=not old)
    assert "is of no family" in refusal(tmp_path / "file", (tmp_path / "saved").read_bytes())


def test_a_name_of_very_many_parts_takes_no_time(tmp_path: Path) -> None:
    torch.save({"module." * 500_000 + "weight": torch.zeros(1)}, tmp_path / "saved")
    assert "it has module.module." in refusal(tmp_path / "file", (tmp_path / "saved").read_bytes())
