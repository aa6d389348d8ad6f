"""Uploads and downloads of a service whose storage is an object store."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.app import create_app
from api.http.context import STORAGE_THREADS
from api.uploads import direct
from jobs import housekeeping
from jobs.database.connection import Database
from jobs.housekeeping import Housekeeper
from jobs.ledger import keys
from jobs.storage import object_pieces
from jobs.storage.objects import ObjectStorage
from lit_client import Client
from lit_client.synchronous import direct_uploads, downloads
from tests.api.conftest import serving
from tests.api.test_jobs import finish
from tests.api.test_uploads import begin, patch
from tests.s3 import S3Server
from tests.worker.bench import OWNER, Bench, make_bench

CONTENT = bytes(range(256)) * 200
SENDERS = 45
"""More requests than the API has threads."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bench(database: Database, service_urls: tuple[str, str], s3: S3Server, tmp_path: Path) -> Bench:
    url = database.engine.url.render_as_string(hide_password=False)
    store = f"s3://{s3.make_bucket()}/lit"
    return make_bench(database, url, service_urls[1], tmp_path, storage_url=store, storage_retry_seconds=0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_pieces, "DIRECT_BYTES", 20_000)


@pytest.fixture
def api(bench: Bench) -> Iterator[TestClient]:
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
        yield client


def stored(bench: Bench, upload: str) -> bytes:
    with bench.storage.open(f"uploads/{upload}/data") as file:
        return file.read()


def announce(api: httpx.Client, **given: Any) -> dict[str, Any]:
    body = {"kind": "dataset", "filename": "d.npz", "size": len(CONTENT), "sha256": SHA256, **given}
    answer = api.post("/v1/uploads", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def put(parts: list[dict[str, Any]], content: bytes = CONTENT) -> dict[str, Any]:
    """Send the parts, as a client without a key; the body that completes the upload."""
    sent = []
    for part in parts:
        answer = httpx.put(part["url"], content=content[part["offset"] : part["offset"] + part["size"]])
        assert answer.status_code == 200, answer.text
        sent.append({"number": part["number"], "etag": answer.headers["ETag"]})
    return {"parts": sent}


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_bytes_arrive_in_pieces_and_are_checked(api: TestClient, bench: Bench) -> None:
    upload = announce(api)["id"]
    assert patch(api, upload, 0, b"x" * 30_000).headers["Upload-Offset"] == "30000"
    wrong = patch(api, upload, 30_000, CONTENT[30_000:])
    assert told(wrong) == (422, "checksum-mismatch")
    assert not bench.storage.exists(f"uploads/{upload}/data")
    assert patch(api, upload, 0, CONTENT[:20_000]).status_code == 204
    assert told(patch(api, upload, 10_000, CONTENT[10_000:])) == (409, "upload-offset-mismatch")
    assert told(patch(api, upload, 20_000, CONTENT)) == (413, "too-large")
    assert patch(api, upload, 20_000, CONTENT[20_000:]).status_code == 204
    shown = api.get(f"/v1/uploads/{upload}").json()
    assert (shown["state"], shown["sha256"], shown["received"]) == ("complete", SHA256, len(CONTENT))
    assert stored(bench, upload) == CONTENT
    assert bench.storage.pieces_size(f"uploads/{upload}/data") == 0

    bench.storage.delete(f"uploads/{upload}/data")
    assert api.get(f"/v1/uploads/{upload}").json()["state"] == "uploading"
    assert patch(api, upload, 0, CONTENT).status_code == 204
    assert api.delete(f"/v1/uploads/{upload}").status_code == 204
    assert bench.storage.list("uploads/") == []


def test_lost_pieces_begin_again(api: TestClient, bench: Bench) -> None:
    upload = begin(api, CONTENT)
    patch(api, upload, 0, CONTENT[:20_000])
    bench.storage.delete_prefix(f"uploads/{upload}/")
    assert told(patch(api, upload, 20_000, CONTENT[20_000:])) == (409, "upload-bytes-lost")
    assert patch(api, upload, 0, CONTENT).status_code == 204


def test_an_abandoned_upload_is_removed(api: TestClient, bench: Bench) -> None:
    upload = announce(api)["id"]
    patch(api, upload, 0, CONTENT[:20_000])
    key = f"uploads/{upload}/data"
    housekeeper = Housekeeper(bench.database, lambda _queue: None, bench.settings, bench.storage)
    assert housekeeper.keep_storage()
    assert bench.storage.pieces_size(key) == 20_000
    with bench.database.session() as session:
        session.execute(text("UPDATE uploads SET received_at = now() - interval '8 days'"))
    # Without the marker it is another ledger's storage, or none.
    bench.storage.delete(bench.marker())
    housekeeper.keep_storage()
    assert bench.storage.pieces_size(key) == 20_000
    bench.storage.put_bytes(bench.marker(), b"")
    housekeeper.keep_storage()
    assert bench.storage.pieces_size(key) == 0
    assert told(api.get(f"/v1/uploads/{upload}")) == (404, "not-found")


def test_an_upload_that_goes_on_for_long_keeps_its_pieces(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pieces are as old as those of an upload that is gone."""
    monkeypatch.setattr(object_pieces, "CLOCKS_DIFFER", timedelta(days=-90))
    monkeypatch.setattr(housekeeping, "LEFTOVER_SECONDS", -90 * 86_400.0)
    upload, other = announce(api)["id"], announce(api, direct=True)["id"]
    patch(api, upload, 0, CONTENT[:20_000])
    bench.storage.write_piece("uploads/upl_gone/data", 0, b"left", 1)
    with bench.database.session() as session:
        session.execute(text("UPDATE uploads SET received_at = now() - interval '8 days'"))
    # Both go on now, one of them past the service.
    patch(api, upload, 20_000, b"x")
    assert api.post(f"/v1/uploads/{other}/parts").status_code == 200
    assert Housekeeper(bench.database, lambda _queue: None, bench.settings, bench.storage).keep_storage()
    assert bench.storage.pieces_size(f"uploads/{upload}/data") == 20_001
    assert bench.storage.pieces_size("uploads/upl_gone/data") == 0
    assert api.get(f"/v1/uploads/{other}").json()["state"] == "uploading"


def test_a_client_sends_parts_itself(api: TestClient, bench: Bench) -> None:
    made = announce(api, direct=True)
    upload, parts = made["id"], made["parts"]
    assert [(part["number"], part["offset"], part["size"]) for part in parts] == [
        (1, 0, 20_000),
        (2, 20_000, 20_000),
        (3, 40_000, 11_200),
    ]
    complete = f"/v1/uploads/{upload}/complete"
    some = put(parts[:2])
    refused = api.post(complete, json=some)
    assert told(refused) == (409, "upload-parts-missing")
    assert "the parts 3 " in refused.json()["detail"]
    again = api.post(f"/v1/uploads/{upload}/parts").json()["parts"]
    assert [part["etag"] is None for part in again] == [False, False, True]
    whole = {"parts": some["parts"] + put(again[2:])["parts"]}
    assert api.get(f"/v1/uploads/{upload}").json()["received"] == 0
    done = api.post(complete, json=whole)
    assert (done.status_code, done.json()["state"], done.json()["sha256"]) == (200, "complete", SHA256)
    assert stored(bench, upload) == CONTENT
    # Sending it again, or to URLs that are still valid, changes nothing.
    assert api.post(complete, json=whole).json()["completed_at"] == done.json()["completed_at"]
    put(parts, bytes(len(CONTENT)))
    assert stored(bench, upload) == CONTENT
    assert told(api.post(f"/v1/uploads/{upload}/parts")) == (409, "upload-offset-mismatch")


def test_parts_are_not_signed_without_end(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SIGNED_PER_HOUR", 2)
    monkeypatch.setattr(direct, "EXPIRIES", 0)
    upload = announce(api, direct=True)["id"]
    path = f"/v1/uploads/{upload}/parts"
    assert api.post(path).status_code == 200
    refused = api.post(path)
    assert told(refused) == (429, "parts-signed-too-often")
    assert int(refused.headers["Retry-After"]) > 0
    # The refusal leaves everything as it was, and another upload has its own count.
    with bench.database.session() as session:
        assert session.scalar(text("SELECT writer FROM uploads")) == 2
        session.execute(text("UPDATE audit_log SET created_at = now() - interval '61 minutes'"))
    assert api.post(path).status_code == 200


def test_one_completion_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client asks again after its connection broke, as `complete` may take minutes."""
    begun, go_on, finish = threading.Event(), threading.Event(), ObjectStorage.finish
    copies: list[str] = []

    def slow(storage: ObjectStorage, key: str, *arguments: Any) -> Any:
        copies.append(key)
        begun.set()
        assert go_on.wait(30)
        return finish(storage, key, *arguments)

    monkeypatch.setattr(ObjectStorage, "finish", slow)
    with serving(bench) as (host, port), ThreadPoolExecutor(1) as pool, Client(f"http://{host}:{port}") as client:
        service = httpx.Client(base_url=f"http://{host}:{port}", timeout=30)
        made = announce(service, direct=True)
        body, path = put(made["parts"]), f"/v1/uploads/{made['id']}/complete"
        first = pool.submit(service.post, path, json=body)
        try:
            assert begun.wait(10)
            again = service.post(path, json=body)
            assert told(again) == (409, "upload-completing")
            assert again.headers["Retry-After"] == "5"

            def sleep(_seconds: float) -> None:
                go_on.set()
                first.result()

            # The client waits, and the first one ends only then.
            monkeypatch.setattr(direct_uploads, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
            etags = {part["number"]: part["etag"] for part in body["parts"]}
            assert direct_uploads._complete(client._connection, client.get_upload(made["id"]), etags)
        finally:
            go_on.set()
        assert first.result().json()["state"] == "complete"
        service.close()
    assert len(copies) == 1
    assert stored(bench, made["id"]) == CONTENT


def test_parts_with_other_bytes_are_refused(api: TestClient, bench: Bench) -> None:
    made = announce(api, direct=True)
    upload = made["id"]
    sent = put(made["parts"], bytes(len(CONTENT)))
    assert told(api.post(f"/v1/uploads/{upload}/complete", json=sent)) == (422, "checksum-mismatch")
    assert bench.storage.list("uploads/") == []
    parts = api.post(f"/v1/uploads/{upload}/parts").json()["parts"]
    assert all(part["etag"] is None for part in parts)
    assert api.post(f"/v1/uploads/{upload}/complete", json=put(parts)).status_code == 200


def test_bytes_through_the_service_count_more_than_older_parts(api: TestClient, bench: Bench) -> None:
    made = announce(api, direct=True)
    put(made["parts"], bytes(len(CONTENT)))
    assert patch(api, made["id"], 0, CONTENT).status_code == 204
    assert stored(bench, made["id"]) == CONTENT


def test_a_file_is_downloaded_from_the_store(api: TestClient, bench: Bench) -> None:
    job = finish(bench, CONTENT)
    path = f"/v1/jobs/{job}/artifacts/model.safetensors"
    there = api.get(path, params={"presigned": True}, follow_redirects=False)
    assert (there.status_code, there.headers["Cache-Control"]) == (307, "no-store")
    got = httpx.get(there.headers["Location"])
    assert hashlib.sha256(got.content).hexdigest() == SHA256
    assert httpx.get(there.headers["Location"], headers={"Range": "bytes=256-258"}).content == b"\0\1\2"
    assert api.head(path, params={"presigned": True}).headers["Content-Length"] == str(len(CONTENT))
    assert api.get(path).content == CONTENT
    assert api.get(path, headers={"Range": "bytes=1000-2999"}).content == CONTENT[1000:3000]
    assert told(api.get(f"{path}x", params={"presigned": True})) == (404, "not-found")


def test_a_store_that_is_away(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = announce(api)["id"]
    gone = bench.settings.model_copy(update={"storage_url": "s3://no-such-bucket/lit"})
    with TestClient(create_app(gone, keyless=True), base_url="http://127.0.0.1:8000") as broken:
        assert told(patch(broken, upload, 0, CONTENT)) == (503, "unavailable")
        assert broken.get("/readyz").status_code == 503
    assert patch(api, upload, 0, CONTENT).status_code == 204


def refusing() -> httpx.MockTransport:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    return httpx.MockTransport(refuse)


def test_a_store_that_stalls_holds_up_nobody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, most, write_piece = threading.Event(), threading.Semaphore(0), ObjectStorage.write_piece

    def stall(storage: ObjectStorage, key: str, offset: int, piece: bytes, writer: int) -> None:
        most.release()
        assert go_on.wait(60)
        write_piece(storage, key, offset, piece, writer)

    monkeypatch.setattr(ObjectStorage, "write_piece", stall)
    limits = httpx.Limits(max_connections=SENDERS + 1)
    with (
        serving(bench) as (host, port),
        ThreadPoolExecutor(SENDERS) as pool,
        httpx.Client(base_url=f"http://{host}:{port}", limits=limits, timeout=60) as service,
    ):
        uploads = [announce(service, sha256=None)["id"] for _ in range(SENDERS)]
        sent = [pool.submit(patch, service, upload, 0, CONTENT) for upload in uploads]
        try:
            for _ in range(STORAGE_THREADS):
                assert most.acquire(timeout=30)
            # Whoever asks for something else is answered, and no transaction is open meanwhile.
            assert service.get("/v1/jobs", timeout=10).status_code == 200
            with bench.database.session() as session:
                idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                assert session.scalar(text(f"{idle} AND datname = current_database()")) == 0
        finally:
            go_on.set()
        assert {answer.result().status_code for answer in sent} == {204}


def test_the_client_sends_large_files_past_the_service(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_uploads, "FROM_BYTES", 50_000)
    (tmp_path / "data.npz").write_bytes(CONTENT)
    progress: list[int] = []
    with serving(bench) as (host, port), Client(f"http://{host}:{port}", first_pause=0.01) as client:
        upload = client.upload(tmp_path / "data.npz", "dataset", lambda done, _total: progress.append(done))
    assert (upload.complete, upload.sha256) == (True, SHA256)
    assert progress == [0, 20_000, 40_000, len(CONTENT)]
    assert stored(bench, upload.id) == CONTENT


def test_the_client_sends_through_the_service_where_the_store_is_out_of_reach(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_uploads, "FROM_BYTES", 50_000)

    monkeypatch.setattr(direct_uploads, "outside_client", lambda seconds: httpx.Client(transport=refusing()))
    (tmp_path / "data.npz").write_bytes(CONTENT)
    with serving(bench) as (host, port), Client(f"http://{host}:{port}", retries=1, first_pause=0.01) as client:
        assert client.upload(tmp_path / "data.npz", "dataset").complete


def test_the_client_downloads_large_files_from_the_store_without_its_key(
    api: TestClient, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "FROM_STORE_BYTES", 50_000)
    job = finish(bench, CONTENT)
    asked: list[httpx.Request] = []
    outside = direct_uploads.outside_client

    def watched(seconds: float) -> httpx.Client:
        made = outside(seconds)
        made.event_hooks["request"].append(asked.append)
        return made

    monkeypatch.setattr(downloads, "outside_client", watched)
    artifact = api.get(f"/v1/jobs/{job}/artifacts").json()["items"][0]
    part = f".{artifact['name']}.{artifact['sha256'][:16]}.part"
    (tmp_path / part).write_bytes(CONTENT[:1000])
    with bench.database.session() as session:
        _, secret = keys.create(session, "ci", owner=OWNER)
    with serving(bench) as (host, port), Client(f"http://{host}:{port}", secret, first_pause=0.01) as client:
        client.download(job, tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == CONTENT
        assert [request.headers["Range"] for request in asked] == ["bytes=1000-"]
        assert "Authorization" not in asked[0].headers
        # Out of reach, the store is asked once, and the service sends the file.
        monkeypatch.setattr(downloads, "outside_client", lambda seconds: httpx.Client(transport=refusing()))
        client.download(job, tmp_path / "again")
        assert (tmp_path / "again/model.safetensors").read_bytes() == CONTENT
        # A refusal, as of a URL that has expired.
        denied = httpx.MockTransport(lambda _request: httpx.Response(403, text="<Code>AccessDenied</Code>"))
        monkeypatch.setattr(downloads, "outside_client", lambda seconds: httpx.Client(transport=denied))
        client.download(job, tmp_path / "denied")
        assert (tmp_path / "denied/model.safetensors").read_bytes() == CONTENT


class TestFolder:
    """A service that keeps its files in a folder."""

    @pytest.fixture
    def bench(self, database: Database, service_urls: tuple[str, str], tmp_path: Path) -> Bench:
        url = database.engine.url.render_as_string(hide_password=False)
        return make_bench(database, url, service_urls[1], tmp_path)

    def test_it_takes_all_bytes_itself(self, api: TestClient, bench: Bench, tmp_path: Path) -> None:
        body = {"kind": "dataset", "filename": "d.npz", "size": len(CONTENT), "direct": True}
        refused = api.post("/v1/uploads", json=body)
        assert told(refused) == (409, "direct-upload-unavailable")
        assert "PATCH" in refused.json()["detail"]
        upload = announce(api)["id"]
        assert told(api.post(f"/v1/uploads/{upload}/parts")) == (409, "direct-upload-unavailable")
        sent = {"parts": [{"number": 1, "etag": "x"}]}
        assert told(api.post(f"/v1/uploads/{upload}/complete", json=sent)) == (409, "direct-upload-unavailable")
        job = finish(bench, CONTENT)
        got = api.get(f"/v1/jobs/{job}/artifacts/model.safetensors", params={"presigned": True})
        assert (got.status_code, got.history, got.content) == (200, [], CONTENT)
