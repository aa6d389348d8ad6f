"""Folders as data sets, and a student's folder as a teacher."""

from __future__ import annotations

import io
import os
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from lit_client import Client
from lit_client.folders import UnusableFolder, as_file, pack
from lit_spec.states import UploadKind
from tests.lit_client.command import litc
from tests.lit_client.faults import FaultyTransport
from tests.worker.bench import Bench

FILES = {"train/cats/1.png": b"one", "train/dogs/2.png": b"two", "test/cats/ü.png": b"three"}
SYSTEMS = (
    *(".DS_Store", "train/.hidden/3.png", "__MACOSX/train/1.png", "train/Thumbs.db", "desktop.ini"),
    *("train/Icon\r", "$RECYCLE.BIN/1.png", "System Volume Information/x", "train/@eaDir/cats/1.png", "lost+found/x"),
)


def folder(tmp_path: Path, name: str = "photos") -> Path:
    made = tmp_path / name
    for file, content in {**FILES, **dict.fromkeys(SYSTEMS, b"x")}.items():
        (made / file).parent.mkdir(parents=True, exist_ok=True)
        (made / file).write_bytes(content)
    return made


def contents(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as read:
        return {member.name: (read.extractfile(member) or io.BytesIO()).read() for member in read}


def test_files_are_packed_but_not_those_of_systems(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    pack(folder(tmp_path), tmp_path / "made.tar", lambda done, total: progress.append((done, total)))
    assert contents((tmp_path / "made.tar").read_bytes()) == FILES
    assert progress == [(5, 11), (8, 11), (11, 11)]


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    made = folder(tmp_path)
    pack(made, tmp_path / "one.tar")
    os.utime(made / "train/cats/1.png", (time.time() - 1000,) * 2)
    (made / "train/dogs/2.png").chmod(0o600)
    pack(made, tmp_path / "other.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_no_part_of_a_folder_is_left_out_without_a_word(tmp_path: Path) -> None:
    made = folder(tmp_path)
    (made / "train/again").symlink_to(made)
    with pytest.raises(UnusableFolder, match="again is a link to a folder: put a copy in its place"):
        pack(made, tmp_path / "made.tar")


def test_a_folder_is_sent_once(client: Client, transport: FaultyTransport, bench: Bench, tmp_path: Path) -> None:
    made = folder(tmp_path)
    upload = client.upload(made, "dataset")
    assert upload.filename == "photos.tar"
    with bench.storage.open(f"uploads/{upload.id}/data") as stored:
        assert contents(stored.read()) == FILES
    sent = transport.count("PATCH", "/v1/uploads")
    assert client.upload(made, "dataset").id == upload.id
    assert transport.count("PATCH", "/v1/uploads") == sent


def test_a_students_folder_is_a_teacher(tmp_path: Path) -> None:
    made = tmp_path / "student"
    made.mkdir()
    with (
        pytest.raises(UnusableFolder, match=r"student is a folder without model\.safetensors"),
        as_file(made, UploadKind.TEACHER),
    ):
        pass
    (made / "model.safetensors").write_bytes(b"x")
    with as_file(made, UploadKind.TEACHER) as file:
        assert file == made / "model.safetensors"


def test_what_is_no_folder_of_data_is_refused_before_anything_is_sent(url: str, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "empty/.git").mkdir(parents=True)
    words = ("compress", teacher, "--blocks", "2", "--output", tmp_path / "out", "--dataset", tmp_path / "empty")
    done = litc(url, *words)
    assert done.returncode == 2
    assert "empty has no files" in " ".join(done.stderr.split())
    with Client(url) as client:
        assert list(client.uploads()) == []


def test_a_students_configuration_is_sent_with_its_model(client: Client, bench: Bench, tmp_path: Path) -> None:
    """Which says what the tensors of an older version's student don't."""
    made = tmp_path / "student"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"x")
    (made / "config.json").write_bytes(b"{}")
    (made / "report.json").write_bytes(b"{}")
    upload = client.upload(made, "teacher")
    assert upload.filename == "student.zip"
    with bench.storage.open(f"uploads/{upload.id}/data") as stored, zipfile.ZipFile(io.BytesIO(stored.read())) as read:
        assert {name: read.read(name) for name in read.namelist()} == {"model.safetensors": b"x", "config.json": b"{}"}
        assert {member.compress_type for member in read.infolist()} == {zipfile.ZIP_STORED}
    os.utime(made / "model.safetensors", (time.time() - 1000,) * 2)
    assert client.upload(made, "teacher").id == upload.id
