"""The folder storage: no key leads out of it, and readers see whole files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jobs.settings import Settings
from jobs.storage.faults import StorageFault
from jobs.storage.storage import FolderStorage, StorageBytesMissing, StorageKeyMissing, open_storage
from tests.worker.bench import wait_for

ROOT = Path(__file__).parents[2]
NO_KEYS = ["", "/", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "./a", "a/./b", ".", "a\0b", ".tmp/a"]


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "storage")


def content(storage: FolderStorage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


def temporary_files(storage: FolderStorage) -> list[Path]:
    return sorted((storage.root / ".tmp").iterdir())


@pytest.mark.parametrize("key", NO_KEYS)
def test_a_key_never_leaves_the_folder(storage: FolderStorage, tmp_path: Path, key: str) -> None:
    (tmp_path / "a").write_bytes(b"outside")
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.put_bytes(key, b"x")
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.put_file(key, tmp_path / "a")
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.append(key, 0, b"x")
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.open(key)
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.size(key)
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.delete_prefix(f"{key}/")
    if key.strip("/"):  # an empty prefix lists everything
        with pytest.raises(ValueError, match="is not a storage key"):
            storage.list(key)
    assert (tmp_path / "a").read_bytes() == b"outside"
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", storage.root]


def test_what_was_put_is_there(storage: FolderStorage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10_000)
    storage.put_file("jobs/1/2/student.pt", source)
    storage.put_bytes("jobs/1/2/.hidden", b"")
    assert content(storage, "jobs/1/2/student.pt") == source.read_bytes()
    assert storage.size("jobs/1/2/student.pt") == 2_560_000
    assert content(storage, "jobs/1/2/.hidden") == b""
    assert storage.exists("jobs/1/2/.hidden")
    assert not storage.exists("jobs/1/2")
    assert source.exists()
    with storage.open("jobs/1/2/student.pt") as file:
        file.seek(300)
        assert file.read(2) == bytes([44, 45])
    storage.check()
    assert temporary_files(storage) == []


def test_an_object_is_deleted_alone_and_twice_is_as_good_as_once(storage: FolderStorage) -> None:
    for key in ("jobs/1/2/a", "jobs/1/2/b"):
        storage.put_bytes(key, b"x")
    for _ in range(2):
        storage.delete("jobs/1/2/a")
        assert storage.list("jobs/") == ["jobs/1/2/b"]
    with pytest.raises(ValueError, match="is not a storage key"):
        storage.delete("../a")


# Neither the folder of a key nor something below it is a key.
@pytest.mark.parametrize("key", ["nothing", "folder/nothing", "nothing/at/all", "folder", "folder/file/below"])
def test_a_missing_key_is_said_to_be_missing(storage: FolderStorage, key: str) -> None:
    storage.put_bytes("folder/file", b"x")
    assert not storage.exists(key)
    for method in (storage.open, storage.size, storage.sync):
        with pytest.raises(StorageKeyMissing) as missing:
            method(key)
        assert missing.value.key == key


def test_a_replaced_file_is_seen_whole_the_old_or_the_new(storage: FolderStorage) -> None:
    versions = [bytes([value]) * 300_000 for value in range(2)]
    storage.put_bytes("key", versions[0])
    with storage.open("key") as old:
        storage.put_bytes("key", versions[1])
        assert old.read() == versions[0]
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(content(storage, "key"))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(50):
        storage.put_bytes("key", versions[i % 2])
    done.set()
    reader.join(20)
    assert len(seen) > 1
    assert set(seen) <= set(versions)


def test_what_cannot_be_put_leaves_what_was_there(storage: FolderStorage, tmp_path: Path) -> None:
    storage.put_bytes("key", b"old")
    with pytest.raises(FileNotFoundError):
        storage.put_file("key", tmp_path / "missing")
    (storage.root / "taken" / "by").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        storage.put_bytes("taken", b"new")
    assert content(storage, "key") == b"old"
    assert temporary_files(storage) == []


def test_appending_goes_on_where_it_is_told_and_cuts_off_the_rest(storage: FolderStorage) -> None:
    storage.append("up/1", 0, b"0123")
    storage.append("up/1", 4, b"4567")
    assert content(storage, "up/1") == b"01234567"
    # A piece that was sent before is written over, and what came after it is gone.
    storage.append("up/1", 2, b"ab")
    assert content(storage, "up/1") == b"01ab"
    with pytest.raises(StorageBytesMissing):
        storage.append("up/1", 5, b"x")
    assert content(storage, "up/1") == b"01ab"
    storage.sync("up/1")
    storage.append("up/1", 0, b"")
    assert storage.size("up/1") == 0


def test_the_size_is_right_where_the_attributes_of_files_are_old(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, which tells what it knew of a file until somebody opens it."""
    storage.append("a/b", 0, b"12")
    known = (storage.root / "a/b").stat()
    storage.append("a/b", 2, b"345")
    monkeypatch.setattr(Path, "stat", lambda *_, **__: known)
    monkeypatch.setattr(os, "stat", lambda *_, **__: known)
    assert storage.size("a/b") == 5


def test_a_refused_first_piece_leaves_no_file(storage: FolderStorage) -> None:
    with pytest.raises(StorageBytesMissing):
        storage.append("up/1", 5, b"x")
    assert not storage.exists("up/1")


def test_lists_and_removal_by_prefix(storage: FolderStorage) -> None:
    keys = ["jobs/1/1/a", "jobs/1/2/a", "jobs/10/1/a", "jobs/2/1/b", "top", "uploads/1/data"]
    for key in reversed(keys):
        storage.put_bytes(key, b"x")
    # What a writer that died in the middle leaves.
    (storage.root / ".tmp" / "0123").write_bytes(b"half")
    assert storage.list("") == keys
    assert storage.list("jobs/1/") == keys[:2]
    assert storage.list("jobs/1/2") == ["jobs/1/2/a"]
    assert storage.list("to") == ["top"]
    assert storage.list("missing/") == storage.list("missing/too/") == []

    storage.delete_prefix("jobs/1/")
    assert storage.list("") == keys[2:]
    storage.delete_prefix("jobs/1/")
    storage.delete_prefix("missing/too/")
    with pytest.raises(ValueError, match="must end in a slash"):
        storage.delete_prefix("jobs/10")
    assert storage.list("") == keys[2:]
    assert [path.name for path in temporary_files(storage)] == ["0123"]


def test_a_prefix_is_no_folder(storage: FolderStorage) -> None:
    for key in ("jobs/1/a", "jobs/10/a"):
        storage.put_bytes(key, b"x")
    assert storage.list("jobs/1") == ["jobs/1/a", "jobs/10/a"]


def test_what_is_being_removed_is_not_listed(storage: FolderStorage) -> None:
    storage.put_bytes("jobs/1/a", b"x")
    # Where the removing process was killed, or has not come to the end.
    (storage.root / "jobs" / "1").rename(storage.root / ".tmp" / "0123456789abcdef")
    assert storage.list("jobs/") == storage.list("") == []


def test_what_the_killed_left_is_removed_once_it_is_old(storage: FolderStorage, tmp_path: Path) -> None:
    storage.put_bytes("jobs/1/a", b"x")
    (storage.root / "jobs" / "1").rename(storage.root / ".tmp" / "0123456789abcdef")
    os.mkfifo(tmp_path / "endless")
    code = "import sys; from jobs.storage.storage import *; "
    code += "FolderStorage(Path(sys.argv[1])).put_file('key', Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(storage.root), str(tmp_path / "endless")]
    with subprocess.Popen(command, cwd=ROOT) as writer, (tmp_path / "endless").open("wb"):
        wait_for(lambda: len(temporary_files(storage)) == 2)
        writer.send_signal(signal.SIGKILL)
    storage.remove_leftovers(3600)
    assert len(temporary_files(storage)) == 2
    storage.remove_leftovers(0)
    assert temporary_files(storage) == []
    # Before anything was written there is nothing to look through.
    FolderStorage(tmp_path / "new").remove_leftovers(0)


def test_others_can_read_nothing_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        for root in (tmp_path / "found", tmp_path / "new" / "storage"):
            storage = FolderStorage(root)
            storage.put_bytes("jobs/a/1/output/x", b"x")
            storage.append("uploads/b/data", 0, b"x")
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
        lambda storage: storage.append("a/b", 0, b"1"),
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
