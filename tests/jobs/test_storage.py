"""What every storage promises: a folder, and an object store on a real S3 server."""

from __future__ import annotations

import hashlib
import io
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.storage.folder import FolderStorage
from jobs.storage.objects import ObjectStorage
from jobs.storage.opening import open_storage
from jobs.storage.storage import Storage, StorageBytesMissing, StorageKeyMissing

NO_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../a",
    "a/../../b",
    "a/..",
    "./a",
    "a/./b",
    ".",
    "a\0b",
    ".tmp/a",
    ".pieces/a",
]
NOT_A_KEY = "is not a storage key"


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(Settings(storage_dir=tmp_path / "storage"))
    s3 = request.getfixturevalue("s3")
    return open_storage(Settings(storage_url=f"s3://{s3.make_bucket()}/some/prefix"))


def content(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


def test_the_settings_name_the_storage(storage: Storage) -> None:
    assert isinstance(storage, FolderStorage | ObjectStorage)
    storage.check()
    assert storage.list("") == []


@pytest.mark.parametrize("key", NO_KEYS)
def test_a_key_never_leaves_the_storage(storage: Storage, tmp_path: Path, key: str) -> None:
    (tmp_path / "a").write_bytes(b"outside")
    for refused in (
        lambda: storage.put_bytes(key, b"x"),
        lambda: storage.put_file(key, tmp_path / "a"),
        lambda: storage.write_piece(key, 0, b"x", 0),
        lambda: storage.open(key),
        lambda: storage.size(key),
        lambda: storage.delete(key),
        lambda: storage.delete_prefix(f"{key}/"),
    ):
        with pytest.raises(ValueError, match=NOT_A_KEY):
            refused()
    if key.strip("/"):  # an empty prefix lists everything
        with pytest.raises(ValueError, match=NOT_A_KEY):
            storage.list(key)
    assert (tmp_path / "a").read_bytes() == b"outside"
    assert storage.list("") == []


def test_what_was_put_is_there(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10_000)
    storage.put_file("jobs/1/2/student.pt", source)
    storage.put_bytes("jobs/1/2/.hidden", b"")
    storage.put_bytes("jobs/1/2/ä b+c%20.json", b"{}")
    assert content(storage, "jobs/1/2/student.pt") == source.read_bytes()
    assert storage.size("jobs/1/2/student.pt") == 2_560_000
    assert content(storage, "jobs/1/2/.hidden") == b""
    assert content(storage, "jobs/1/2/ä b+c%20.json") == b"{}"
    assert storage.list("jobs/") == ["jobs/1/2/.hidden", "jobs/1/2/student.pt", "jobs/1/2/ä b+c%20.json"]
    assert storage.exists("jobs/1/2/.hidden")
    assert not storage.exists("jobs/1/2")
    assert source.exists()


def test_reading_goes_where_it_is_told(storage: Storage, tmp_path: Path) -> None:
    written = b"".join(number.to_bytes(4, "big") for number in range(2_500_000))  # more than is fetched at once
    (tmp_path / "source").write_bytes(written)
    storage.put_file("numbers", tmp_path / "source")
    with storage.open("numbers") as file:
        assert file.read(8) == written[:8]
        for position in (300, 9_000_000, 262_140, 5, len(written) - 3):
            assert file.seek(position) == file.tell() == position
            assert file.read(1000) == written[position : position + 1000]
        assert file.seek(-4, io.SEEK_END) == len(written) - 4
        assert file.read() == written[-4:]
        assert file.read(1) == b""
        file.seek(0)
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
        assert found.digest() == hashlib.sha256(written).digest()


def test_a_large_file_is_put_in_parts(storage: Storage, tmp_path: Path) -> None:
    written = hashlib.shake_128(b"a large file").digest(20 << 20)
    (tmp_path / "source").write_bytes(written)
    storage.put_file("large", tmp_path / "source")
    assert storage.size("large") == len(written)
    assert content(storage, "large") == written


def test_an_object_is_deleted_alone_and_twice_is_as_good_as_once(storage: Storage) -> None:
    for key in ("jobs/1/2/a", "jobs/1/2/b"):
        storage.put_bytes(key, b"x")
    for _ in range(2):
        storage.delete("jobs/1/2/a")
        assert storage.list("jobs/") == ["jobs/1/2/b"]


# Neither the folder of a key nor something below it is a key.
@pytest.mark.parametrize("key", ["nothing", "folder/nothing", "nothing/at/all", "folder", "folder/file/below"])
def test_a_missing_key_is_said_to_be_missing(storage: Storage, key: str) -> None:
    storage.put_bytes("folder/file", b"x")
    assert not storage.exists(key)
    for method in (storage.open, storage.size):
        with pytest.raises(StorageKeyMissing) as missing:
            method(key)
        assert missing.value.key == key
    with pytest.raises(StorageKeyMissing), storage.finish(key, 1):
        pass
    assert storage.pieces_size(key) == 0


def test_a_replaced_file_is_seen_whole_the_old_or_the_new(storage: Storage) -> None:
    versions = [bytes([value]) * 300_000 for value in range(2)]
    storage.put_bytes("key", versions[0])
    with storage.open("key") as old:
        storage.put_bytes("key", versions[1])
        try:
            assert old.read() == versions[0]
        except OSError as replaced:
            assert "was replaced" in str(replaced)  # noqa: PT017 - either is right
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(content(storage, "key"))
            except OSError as replaced:
                assert "was replaced" in str(replaced)  # noqa: PT017

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        storage.put_bytes("key", versions[i % 2])
    done.set()
    reader.join(20)
    seen.append(content(storage, "key"))
    assert set(seen) <= set(versions)


def test_what_cannot_be_put_leaves_what_was_there(storage: Storage, tmp_path: Path) -> None:
    storage.put_bytes("key", b"old")
    with pytest.raises(FileNotFoundError):
        storage.put_file("key", tmp_path / "missing")
    assert content(storage, "key") == b"old"


def write(storage: Storage, key: str, offset: int, *pieces: bytes, writer: int) -> None:
    for piece in pieces:
        storage.write_piece(key, offset, piece, writer)
        offset += len(piece)


def finished(storage: Storage, key: str, size: int) -> bytes:
    with storage.finish(key, size) as found:
        with found.open() as file:
            before = file.read()
        found.publish()
    assert content(storage, key) == before
    assert found.sha256 == hashlib.sha256(before).hexdigest()
    return before


def test_pieces_become_a_file(storage: Storage) -> None:
    key = "uploads/1/data"
    assert storage.pieces_size(key) == 0
    write(storage, key, 0, b"0123", b"4567", writer=1)
    storage.sync(key)
    assert storage.pieces_size(key) == 8
    for size in (7, 9):
        with pytest.raises(StorageBytesMissing), storage.finish(key, size):
            pass
    assert finished(storage, key, 8) == b"01234567"
    assert storage.list("") == [key]
    storage.delete_prefix("uploads/1/")
    assert storage.list("") == []
    assert storage.pieces_size(key) == 0


def test_a_newer_writer_goes_on_where_it_is_told(storage: Storage) -> None:
    """The ledger knew of fewer bytes than were stored, and the client sends others of another length."""
    key = "uploads/1/data"
    write(storage, key, 0, b"0123", b"4567", b"89", writer=1)
    write(storage, key, 4, b"ab", b"cdef", b"gh", writer=2)
    assert finished(storage, key, 12) == b"0123abcdefgh"


def test_what_is_cut_is_gone(storage: Storage) -> None:
    key = "uploads/1/data"
    write(storage, key, 0, b"0123", b"4567", writer=1)
    storage.cut(key, 6)
    assert storage.pieces_size(key) == 6
    write(storage, key, 6, b"xy", writer=1)
    assert finished(storage, key, 8) == b"012345xy"
    again = "uploads/2/data"
    write(storage, again, 0, b"0123", writer=1)
    storage.cut(again, 0)
    assert storage.pieces_size(again) == 0


def test_bytes_that_are_not_there_are_missed_at_the_end_at_the_latest(storage: Storage) -> None:
    with suppress(StorageBytesMissing):
        storage.write_piece("up/1", 5, b"x", 1)
    with pytest.raises(StorageKeyMissing), storage.finish("up/1", 6):
        pass
    assert storage.pieces_size("up/1") == 0
    assert not storage.exists("up/1")


def test_what_is_not_published_is_not_seen_by_who_reads_an_earlier_file(storage: Storage) -> None:
    key = "uploads/1/data"
    write(storage, key, 0, b"right", writer=1)
    with pytest.raises(RuntimeError), storage.finish(key, 5):
        raise RuntimeError("the sha256 is another")
    assert storage.pieces_size(key) == 5
    assert finished(storage, key, 5) == b"right"


def test_lists_and_removal_by_prefix(storage: Storage) -> None:
    keys = ["jobs/1/1/a", "jobs/1/2/a", "jobs/10/1/a", "jobs/2/1/b", "top", "uploads/1/data"]
    for key in reversed(keys):
        storage.put_bytes(key, b"x")
    assert storage.list("") == keys
    assert storage.list("jobs/1/") == keys[:2]
    assert storage.list("jobs/1") == keys[:3]
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


def test_there_is_nothing_to_remove_at_first(storage: Storage) -> None:
    storage.remove_leftovers(0, dict)
    storage.put_bytes("jobs/1/a", b"x")
    storage.remove_leftovers(0, dict)
    assert storage.list("") == ["jobs/1/a"]
