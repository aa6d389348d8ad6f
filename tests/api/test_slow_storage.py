"""Storage that takes long for a write: what a newer request has sent stays as it is."""

from __future__ import annotations

import errno
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import DBAPIError

from api import app
from api.http.context import Context
from api.uploads import writing
from api.uploads.writing import UploadWriter
from jobs.database.connection import Database
from jobs.errors import Stale
from jobs.ledger import uploads
from jobs.storage.faults import StorageFault
from jobs.storage.folder import FolderStorage
from tests.api.conftest import serving
from tests.api.test_uploads import begin, patch
from tests.worker.bench import OWNER, Bench, wait_for

CONTENT = bytes(range(256)) * 100
IDLE_SECONDS = 0.3


class HangingStorage(FolderStorage):
    """Its first write hangs until `go_on` is set."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.settings.storage_root)
        self.hangs = threading.Event()
        self.go_on = threading.Event()

    def write_piece(self, key: str, offset: int, piece: bytes, writer: int) -> None:
        if not self.hangs.is_set():
            self.hangs.set()
            assert self.go_on.wait(30)
        super().write_piece(key, offset, piece, writer)


class SlowSync(FolderStorage):
    """Its first `sync` of an upload ends once `go_on` is set, or fails if `broken` is."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.settings.storage_root)
        self.syncs = threading.Event()
        self.go_on = threading.Event()
        self.broken = False

    def sync(self, key: str) -> None:
        if not self.syncs.is_set():
            self.syncs.set()
            assert self.go_on.wait(30)
            if self.broken:
                raise StorageFault(errno.EIO, "the disk is broken")
        super().sync(key)


def write_whole(context: Context, upload: str, content: bytes) -> None:
    writer = UploadWriter(context, OWNER, upload, 0)
    writer.append(0, content)
    writer.record(len(content))
    writer.complete()


def write_first_piece(context: Context, upload: str) -> None:
    # The database may have ended its transaction.
    with suppress(Stale, DBAPIError):
        UploadWriter(context, OWNER, upload, 0).append(0, CONTENT[:100])


def test_a_write_that_hangs_cuts_nothing_off_that_a_newer_request_sends(api: TestClient, bench: Bench) -> None:
    database = Database(bench.settings.database_url or "", idle_transaction_seconds=IDLE_SECONDS)
    storage = HangingStorage(bench)
    context = replace(api.app.state.context, database=database, storage=storage)  # type: ignore[attr-defined]
    with database.session() as session:
        upload = uploads.create(session, OWNER, "dataset", "d", len(CONTENT), None).id
    older = threading.Thread(target=write_first_piece, args=(context, upload))
    newer = threading.Thread(target=write_whole, args=(context, upload, CONTENT))
    older.start()
    assert storage.hangs.wait(10)
    newer.start()
    # Whether it waits for the older one or not.
    newer.join(5 * IDLE_SECONDS)
    storage.go_on.set()
    for thread in (older, newer):
        thread.join(20)
        assert not thread.is_alive()
    with database.session() as session:
        row = uploads.get(session, OWNER, upload)
    assert (row.state, row.sha256) == ("complete", hashlib.sha256(CONTENT).hexdigest())
    with storage.open(f"uploads/{upload}/data") as file:
        assert file.read() == CONTENT
    database.close()


@pytest.mark.parametrize(
    ("broken", "due"), [(False, {"RECORD_BYTES": 2}), (True, {"RECORD_BYTES": 2}), (False, {"RECORD_SECONDS": 0})]
)
def test_pieces_are_written_while_earlier_ones_are_made_durable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: bool, due: dict[str, int]
) -> None:
    """And only those that are durable are recorded: after so many pieces, or so many seconds."""
    piece = FolderStorage.piece_bytes
    for name, pieces_or_seconds in due.items():
        monkeypatch.setattr(writing, name, pieces_or_seconds * piece)
    # What waits to be recorded, and as much again.
    waits = 2 * piece * due.get("RECORD_BYTES", 1)
    content = bytes(range(256)) * (7 * piece // 256)
    storage = SlowSync(bench)
    monkeypatch.setattr(app, "open_storage", lambda _: storage)
    with serving(bench) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as api:
        upload = begin(api, content)
        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(patch, api, upload, 0, content)
            assert storage.syncs.wait(20)
            try:
                wait_for(lambda: storage.size(f"uploads/{upload}/data") >= waits)
                assert storage.size(f"uploads/{upload}/data") < len(content)
                with bench.database.session() as session:
                    assert uploads.get(session, OWNER, upload).received == 0
            finally:
                storage.broken = broken
                storage.go_on.set()
            answer = sending.result(60)
        if broken:
            assert answer.status_code == 503
            offset = int(api.head(f"/v1/uploads/{upload}").headers["Upload-Offset"])
            answer = patch(api, upload, offset, content[offset:])
        assert answer.status_code == 204
        assert api.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(content).hexdigest()
    with storage.open(f"uploads/{upload}/data") as file:
        assert file.read() == content
