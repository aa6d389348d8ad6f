"""The folder storage: what killed processes leave, who may read it, and what happens when it is away."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jobs.settings import Settings
from jobs.storage.faults import StorageFault
from jobs.storage.folder import FolderStorage
from jobs.storage.opening import open_storage
from tests.worker.bench import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "storage")


def temporary_files(storage: FolderStorage) -> list[Path]:
    return sorted((storage.root / ".tmp").iterdir())


def test_the_size_is_right_where_the_attributes_of_files_are_old(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, which tells what it knew of a file until somebody opens it."""
    storage.write_piece("a/b", 0, b"12", 0)
    known = (storage.root / "a/b").stat()
    storage.write_piece("a/b", 2, b"345", 0)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: known)
    monkeypatch.setattr(os, "stat", lambda *_, **__: known)
    assert storage.size("a/b") == 5


def test_what_is_being_removed_is_not_listed(storage: FolderStorage) -> None:
    storage.put_bytes("jobs/1/a", b"x")
    # Where the removing process was killed, or has not come to the end.
    (storage.root / "jobs" / "1").rename(storage.root / ".tmp" / "0123456789abcdef")
    assert storage.list("jobs/") == storage.list("") == []


def test_what_the_killed_left_is_removed_once_it_is_old(storage: FolderStorage, tmp_path: Path) -> None:
    storage.put_bytes("jobs/1/a", b"x")
    (storage.root / "jobs" / "1").rename(storage.root / ".tmp" / "0123456789abcdef")
    os.mkfifo(tmp_path / "endless")
    code = "import sys; from pathlib import Path; from jobs.storage.folder import FolderStorage; "
    code += "FolderStorage(Path(sys.argv[1])).put_file('key', Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(storage.root), str(tmp_path / "endless")]
    with subprocess.Popen(command, cwd=ROOT) as writer, (tmp_path / "endless").open("wb"):
        wait_for(lambda: len(temporary_files(storage)) == 2)
        writer.send_signal(signal.SIGKILL)
    storage.remove_leftovers(3600, dict)
    assert len(temporary_files(storage)) == 2
    storage.remove_leftovers(0, dict)
    assert temporary_files(storage) == []
    # Before anything was written there is nothing to look through.
    FolderStorage(tmp_path / "new").remove_leftovers(0, dict)


def test_others_can_read_nothing_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        for root in (tmp_path / "found", tmp_path / "new" / "storage"):
            storage = FolderStorage(root)
            storage.put_bytes("jobs/a/1/output/x", b"x")
            storage.write_piece("uploads/b/data", 0, b"x", 0)
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in paths if path.is_dir()} == {"0o700"}
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in paths if path.is_file()} == {"0o600"}


@pytest.mark.parametrize("mode", [0o1777, 0o2775])
def test_a_folder_that_is_shared_on_purpose_is_not_closed(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    FolderStorage(tmp_path).put_bytes("jobs/a/1/output/x", b"x")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) & 0o777 == 0o700


def test_a_folder_with_files_of_others_is_not_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letters").mkdir()
    FolderStorage(tmp_path).put_bytes("jobs/a/1/output/x", b"x")
    assert FolderStorage(tmp_path).exists("jobs/a/1/output/x")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700


def test_a_folder_that_holds_only_what_is_stored_is_closed(tmp_path: Path) -> None:
    FolderStorage(tmp_path).put_bytes("jobs/a/1/output/x", b"x")
    tmp_path.chmod(0o755)
    with capture_logs() as logs:
        FolderStorage(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert [(entry["event"], entry["mode_before"]) for entry in logs] == [("folder closed to others", "0755")]


def test_a_storage_that_cannot_be_written_says_so(storage: FolderStorage) -> None:
    storage.root.rmdir()
    storage.root.write_bytes(b"a file where the folder was")
    with pytest.raises(StorageFault):
        storage.check()


@pytest.mark.parametrize(
    "write",
    [
        lambda storage: storage.put_bytes("a/b", b"1"),
        lambda storage: storage.write_piece("a/b", 0, b"1", 0),
        lambda storage: storage.check(),
    ],
)
def test_a_storage_that_is_away_is_not_made_anew_by_a_write(
    storage: FolderStorage, write: Callable[[FolderStorage], None]
) -> None:
    storage.root.rename(storage.root.with_name("away"))
    with pytest.raises(StorageFault):
        write(storage)
    assert not storage.root.exists()


def test_the_settings_name_the_folder(tmp_path: Path) -> None:
    for settings in (Settings(storage_dir=tmp_path / "s"), Settings(data_dir=tmp_path, storage_dir=None)):
        open_storage(settings).put_bytes("key", b"x")
        assert (settings.storage_root / "key").read_bytes() == b"x"
    assert (tmp_path / "storage" / "key").exists()
