"""What is particular to an object store: outages, late writes, multipart uploads, signed URLs and credentials."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import LocalStore
from pydantic import ValidationError

from jobs.settings import Settings
from jobs.storage import object_pieces, objects
from jobs.storage.faults import StorageFault
from jobs.storage.objects import ObjectStorage
from jobs.storage.opening import open_storage
from jobs.storage.storage import StorageKeyMissing
from tests.s3 import S3Server, aws_environment

KEY = "uploads/1/data"


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture
def storage(bucket: str) -> ObjectStorage:
    return opened(bucket)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[S3Server]:
    """A server that may be stopped."""
    server = S3Server(tmp_path / "log")
    server.start()
    with aws_environment(server):
        yield server
    server.stop()


def opened(bucket: str, **settings: object) -> ObjectStorage:
    made = open_storage(Settings(storage_url=f"s3://{bucket}/lit", storage_retry_seconds=0, **settings))  # type: ignore[arg-type]
    assert isinstance(made, ObjectStorage)
    return made


def test_a_write_that_arrives_late_changes_nothing(storage: ObjectStorage) -> None:
    """Its writer lost the lock while the bytes were on their way. A newer one has sent others at the same offset."""
    storage.write_piece(KEY, 0, b"0123", 2)
    storage.write_piece(KEY, 4, b"4567", 2)
    storage.write_piece(KEY, 0, b"late", 1)
    storage.write_piece(KEY, 4, b"late and longer", 1)
    storage.write_piece(KEY, 2, b"late and unreachable", 1)
    assert storage.pieces_size(KEY) == 8
    with storage.finish(KEY, 8) as finished:
        finished.publish()
    with storage.open(KEY) as file:
        assert file.read() == b"01234567"
    assert not list(object_pieces._all_pieces(storage._store, KEY))


def test_an_unpublished_file_leaves_no_parts(storage: ObjectStorage, s3: S3Server, bucket: str) -> None:
    size = 2 * object_pieces.PART_BYTES + 5
    storage.write_piece(KEY, 0, bytes(size), 1)
    with storage.finish(KEY, size) as finished:
        assert s3.unfinished_uploads(bucket) == 1
        assert finished.sha256 == hashlib.sha256(bytes(size)).hexdigest()
    assert s3.unfinished_uploads(bucket) == 0
    assert not storage.exists(KEY)
    with storage.finish(KEY, size) as finished:
        finished.publish()
    assert storage.size(KEY) == size
    assert s3.unfinished_uploads(bucket) == 0


def test_pieces_that_belong_to_no_upload_are_removed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, later = opened(bucket, presigned_seconds=900), timedelta(days=-1)
    monkeypatch.setattr(objects, "LEFTOVERS_EVERY_SECONDS", 0.0)

    def pieces() -> list[tuple[int, int]]:
        return sorted((piece.offset, piece.writer) for piece in object_pieces._all_pieces(storage._store, KEY))

    for offset, writer, piece in [(0, 1, b"old"), (0, 2, b"half"), (4, 1, b"other"), (4, 3, b"too long"), (0, 3, b"")]:
        object_pieces.write_piece(storage._store, KEY, offset, piece, writer)
    obstore.put(storage._store, object_pieces.piece_path(KEY, 0, 4), b"")
    storage.put_bytes("jobs/1/1/checkpoint.pt", b"x")
    everything = [(0, 1), (0, 2), (0, 4), (4, 1), (4, 3)]
    storage.remove_leftovers(60, dict)
    storage.remove_leftovers(-10, lambda: {KEY: 9})  # the signed URLs are still valid
    assert pieces() == everything
    monkeypatch.setattr(object_pieces, "CLOCKS_DIFFER", later)
    storage.remove_leftovers(-10, lambda: {KEY: 9})
    assert pieces() == [(0, 2)]
    storage.remove_leftovers(-10, dict)
    assert pieces() == []
    assert storage.exists("jobs/1/1/checkpoint.pt")


def test_an_object_that_is_replaced_while_it_is_read_is_a_fault(storage: ObjectStorage) -> None:
    storage.put_bytes("large", bytes(3_000_000))
    with storage.open("large") as file:
        file.read(10)
        storage.put_bytes("large", bytes(range(256)) * 20_000)
        with pytest.raises(StorageFault, match="was replaced while it was read"):
            file.read()
    with storage.open("large") as file:
        file.read(10)
        storage.delete("large")
        with pytest.raises(StorageKeyMissing):
            file.read()


def test_a_log_is_read_while_it_grows(storage: ObjectStorage) -> None:
    line = b"epoch 1\n" * 10
    storage.put_bytes("log", line * 20_000)
    with storage.open("log", grows=True) as file:
        start = file.read(10)
        storage.put_bytes("log", line * 30_000)
        assert start + file.read() == line * 20_000


def test_objects_that_are_gone_keep_no_others_from_being_removed(tmp_path: Path) -> None:
    """This store fails at the first key that is missing, as Google's does."""
    store = LocalStore(tmp_path)
    names = [f"{number}" for number in range(20)]
    for name in names[1:]:
        obstore.put(store, name, b"x")
    object_pieces.remove(store, [*names, "missing too"])
    assert not list(tmp_path.iterdir())


def test_a_bucket_that_does_not_exist_is_a_fault(s3: S3Server) -> None:
    nowhere = opened("no-such-bucket")
    for use in (nowhere.check, lambda: nowhere.put_bytes("a", b"x"), lambda: nowhere.list("")):
        with pytest.raises(StorageFault, match="no such bucket") as fault:
            use()
        assert "no-such-bucket" not in (fault.value.strerror or "")
    assert not nowhere.exists("a")
    assert s3.port


def test_an_outage_is_a_fault_and_passes(mortal: S3Server) -> None:
    bucket = mortal.make_bucket("durable")
    storage = opened(bucket)
    storage.put_bytes("a", b"before")
    mortal.stop()
    uses = (
        storage.check,
        lambda: storage.put_bytes("b", b"x"),
        lambda: storage.write_piece(KEY, 0, b"x", 1),
        lambda: storage.open("a"),
        lambda: storage.exists("a"),
        lambda: storage.list(""),
        lambda: storage.pieces_size(KEY),
        lambda: storage.delete_prefix("jobs/1/"),
    )
    for use in uses:
        with pytest.raises(StorageFault, match="the object store can't be reached") as fault:
            use()
        assert fault.value.errno == errno.EIO
        assert mortal.url not in (fault.value.strerror or "")
    mortal.start()
    mortal.make_bucket("durable")
    storage.check()
    storage.put_bytes("a", b"after")
    assert storage.size("a") == 5


def test_a_download_needs_no_key_for_a_while(storage: ObjectStorage, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"{}")
    key = "jobs/1/1/output/report ä.json"
    storage.put_file(key, tmp_path / "file")
    url = storage.download_url(key)
    assert url is not None
    got = httpx.get(url)
    assert (got.status_code, got.content) == (200, b"{}")
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Content-Disposition"] == "attachment; filename*=UTF-8''report%20%C3%A4.json"
    assert "X-Amz-Expires=900&" in url
    silent = opened(bucket, presigned_seconds=0)
    assert (silent.download_url(key), silent.direct) == (None, None)


def test_wrong_settings_of_a_store_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StorageFault, match=r"settings are wrong.*[Aa]ccount"):
        open_storage(Settings(storage_url="az://container/lit"))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    azure = open_storage(Settings(storage_url="az://container/lit"))
    assert azure.direct is None
    assert "container/lit/jobs/a?" in (azure.download_url("jobs/a") or "")


def test_parts_that_a_client_has_sent_itself(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_pieces, "DIRECT_BYTES", 10)
    direct = storage.direct
    assert direct is not None
    written = bytes(range(25))
    parts = direct.parts(KEY, 25, 1)
    assert [(part.number, part.offset, part.size, part.etag) for part in parts] == [
        (1, 0, 10, None),
        (2, 10, 10, None),
        (3, 20, 5, None),
    ]
    etags = {}
    for part in parts[:2]:
        sent = httpx.put(part.url, content=written[part.offset : part.offset + part.size])
        etags[part.number] = sent.headers["ETag"]
    assert direct.missing(KEY, 25, etags) == [3]
    # It goes on later, with other URLs; a part that is too short does not count.
    again = direct.parts(KEY, 25, 2)
    assert [part.etag is not None for part in again] == [True, True, False]
    assert httpx.put(again[2].url, content=b"shrt").is_success
    assert direct.missing(KEY, 25, {**etags, 3: "x"}) == [3]
    etags[3] = httpx.put(again[2].url, content=written[20:]).headers["ETag"].strip('"')
    assert direct.missing(KEY, 25, etags) == []
    assert direct.missing(KEY, 25, {**etags, 2: "other"}) == [2]
    with storage.finish(KEY, 25) as finished:
        finished.publish()
    with storage.open(KEY) as file:
        assert file.read() == written


def test_encryption_is_asked_for(bucket: str) -> None:
    storage = opened(bucket, storage_encryption="aws:kms", storage_kms_key="a-key")
    storage.put_bytes("a", b"x")
    headers = httpx.get(storage.download_url("a") or "").headers
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "a-key"


@pytest.mark.parametrize(
    "url", ["bucket", "http://host/bucket", "s3://", "s3://b/../c", "s3://b/a?x=1", "s3://b//c", "s3:/b"]
)
def test_the_url_of_a_store(url: str) -> None:
    for name in ("storage_url", "dataset_stores"):
        with pytest.raises(ValidationError, match="is not the URL of an object store"):
            Settings(**{name: url})
    kept = Settings(storage_url="s3://b.c-d/e/f/", dataset_stores="s3://a, gs://b/c/")
    assert kept.storage_url == kept.storage_place == "s3://b.c-d/e/f"
    assert kept.dataset_prefixes == ("s3://a/", "gs://b/c/")
    assert kept.as_environment()["LIT_STORAGE_URL"] == "s3://b.c-d/e/f"
