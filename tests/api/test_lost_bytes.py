"""Uploads whose bytes are no longer in storage: they begin again at offset 0, and every route agrees on it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from jobs.ledger import uploads
from jobs.storage.folder import FolderStorage
from tests.api.test_job_requests import request
from tests.api.test_uploads import begin, patch, safetensors_file, send_first_part, status_line
from tests.small_disks import files_up_to
from tests.worker.bench import OWNER, Bench, wait_for

CONTENT = bytes(range(256)) * 100


def vanish(bench: Bench, upload: str) -> None:
    bench.storage.delete_prefix(f"uploads/{upload}/")


def shorten(bench: Bench, upload: str) -> None:
    bench.storage.cut(f"uploads/{upload}/data", 1000)


LOSSES: list[Callable[[Bench, str], None]] = [vanish, shorten]


@pytest.mark.parametrize("lose", LOSSES)
def test_the_next_bytes_are_told_that_the_earlier_ones_are_lost(
    api: TestClient, bench: Bench, lose: Callable[[Bench, str], None]
) -> None:
    upload = begin(api, CONTENT)
    patch(api, upload, 0, CONTENT[:20_000])
    lose(bench, upload)
    lost = patch(api, upload, 20_000, CONTENT[20_000:])
    assert (lost.status_code, lost.json()["type"]) == (409, "/problems/upload-bytes-lost")
    assert lost.headers["Upload-Offset"] == "0"
    assert "send the file again from offset 0" in lost.json()["detail"]
    assert api.get(lost.json()["type"]).status_code == 200
    # It's said once; then the upload is one like any other.
    late = patch(api, upload, 20_000, CONTENT[20_000:])
    assert (late.json()["type"], late.headers["Upload-Offset"]) == ("/problems/upload-offset-mismatch", "0")
    assert patch(api, upload, 0, CONTENT).status_code == 204
    assert api.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("lose", LOSSES)
def test_whoever_looks_sees_the_offset_to_continue_at(
    api: TestClient, bench: Bench, lose: Callable[[Bench, str], None]
) -> None:
    by_head, by_get, by_patch = (begin(api, CONTENT) for _ in range(3))
    for upload in (by_head, by_get, by_patch):
        patch(api, upload, 0, CONTENT[:20_000])
        lose(bench, upload)
    assert api.head(f"/v1/uploads/{by_head}").headers["Upload-Offset"] == "0"
    assert api.get(f"/v1/uploads/{by_get}").json()["received"] == 0
    for upload in (by_head, by_get, by_patch):
        assert patch(api, upload, 0, CONTENT).status_code == 204
        assert api.get(f"/v1/uploads/{upload}").json()["state"] == "complete"


@pytest.mark.parametrize("lose", LOSSES)
def test_the_last_check_finds_lost_bytes(api: TestClient, bench: Bench, lose: Callable[[Bench, str], None]) -> None:
    upload = begin(api, CONTENT)
    patch(api, upload, 0, CONTENT[:20_000])
    with bench.database.session() as session:
        # As after a crash between the last byte and the check.
        begun = uploads.open_writer(session, OWNER, upload, 20_000)
        uploads.record_progress(session, upload, begun.writer, len(CONTENT))
    lose(bench, upload)
    lost = patch(api, upload, len(CONTENT), b"")
    assert (lost.status_code, lost.json()["type"]) == (409, "/problems/upload-bytes-lost")
    assert patch(api, upload, 0, CONTENT).status_code == 204


def test_bytes_that_are_lost_while_more_arrive(bench: Bench, address: tuple[str, int]) -> None:
    content = bytes(range(256)) * 16384
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as api:
        upload = begin(api, content)
        sending = send_first_part(bench, address, upload, content, 2_500_000)
        vanish(bench, upload)
        sending.sendall(content[2_500_000:])
        assert b" 409 " in status_line(sending)
        assert api.head(f"/v1/uploads/{upload}").headers["Upload-Offset"] == "0"
        assert patch(api, upload, 0, content).status_code == 204


def complete(api: TestClient, bench: Bench, kind: str, inspected: bool) -> tuple[str, bytes]:
    content = safetensors_file(8) if kind == "teacher" else CONTENT
    upload = begin(api, content, kind=kind)
    assert patch(api, upload, 0, content).status_code == 204
    if inspected:
        bench.inspected(upload)
    return upload, content


@pytest.mark.parametrize(("kind", "inspected"), [("dataset", False), ("teacher", False), ("teacher", True)])
def test_a_complete_upload_begins_again_too(api: TestClient, bench: Bench, kind: str, inspected: bool) -> None:
    """Otherwise nobody could ever send the file again: the service would say that it has it."""
    upload, content = complete(api, bench, kind, inspected)
    announced = {"kind": kind, "filename": "f", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert api.post("/v1/uploads", json=announced).status_code == 200
    vanish(bench, upload)
    again = api.post("/v1/uploads", json=announced)
    assert (again.status_code, again.json()["received"], again.json()["state"]) == (201, 0, "uploading")
    assert again.json()["inspection_state"] is None
    assert patch(api, again.json()["id"], 0, content).status_code == 204
    done = api.get(f"/v1/uploads/{again.json()['id']}").json()
    assert (done["state"], done["inspection_state"]) == ("complete", "pending")


@pytest.mark.usefixtures("inspected_datasets")
def test_a_form_sends_lost_bytes_again(api: TestClient, bench: Bench) -> None:
    known, content = complete(api, bench, "dataset", inspected=False)
    vanish(bench, known)
    job = {"teacher": bench.teacher(), "student": {"depth": 14}}
    made = api.post("/v1/jobs", data={"job": json.dumps(job)}, files={"dataset": ("d.npz", content)})
    assert made.status_code == 202, made.text
    with bench.storage.open(f"uploads/{made.json()['request']['dataset']['upload']}/data") as file:
        assert file.read() == content


@pytest.mark.usefixtures("inspected_datasets")
def test_two_forms_send_the_same_lost_bytes_again(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has sent the file when another request writes to the same upload."""
    known, content = complete(api, bench, "dataset", inspected=False)
    vanish(bench, known)
    write_piece = FolderStorage.write_piece

    def overtaken(storage: FolderStorage, key: str, offset: int, piece: bytes, writer: int) -> None:
        write_piece(storage, key, offset, piece, writer)
        if key == f"uploads/{known}/data":
            monkeypatch.setattr(FolderStorage, "write_piece", write_piece)
            overtake()

    other: list[threading.Thread] = []

    def overtake() -> None:
        def write() -> None:
            with bench.database.session() as session:
                uploads.open_writer(session, OWNER, known, 0)

        # It waits for the lock under which the form writes.
        other.append(threading.Thread(target=write))
        other[0].start()
        wait_for(lambda: waits_for_a_lock(bench))

    monkeypatch.setattr(FolderStorage, "write_piece", overtaken)
    job = {"teacher": bench.teacher(), "student": {"depth": 14}}
    made = api.post("/v1/jobs", data={"job": json.dumps(job)}, files={"dataset": ("d.npz", content)})
    other[0].join(30)
    assert made.status_code == 202, made.text
    with bench.storage.open(f"uploads/{made.json()['request']['dataset']['upload']}/data") as file:
        assert file.read() == content


def waits_for_a_lock(bench: Bench) -> bool:
    with bench.database.session() as session:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(session.scalar(text(waiting)))


def test_a_form_that_can_not_send_lost_bytes_leaves_the_upload(api: TestClient, bench: Bench) -> None:
    known, content = complete(api, bench, "dataset", inspected=False)
    teacher = bench.teacher()
    vanish(bench, known)
    job = {"teacher": teacher, "student": {"depth": 14}}
    with files_up_to(len(content) // 2):
        full = api.post("/v1/jobs", data={"job": json.dumps(job)}, files={"dataset": ("d.npz", content)})
    assert (full.status_code, full.json()["type"]) == (507, "/problems/insufficient-storage")
    assert api.get(f"/v1/uploads/{known}").json()["received"] == 0
    assert patch(api, known, 0, content).status_code == 204


def test_an_inspected_teacher_needs_no_more_than_what_was_stored(api: TestClient, bench: Bench) -> None:
    upload, _ = complete(api, bench, "teacher", inspected=True)
    bench.storage.delete(f"uploads/{upload}/data")
    shown = api.get(f"/v1/uploads/{upload}").json()
    assert (shown["state"], shown["inspection_state"]) == ("complete", "done")


def test_a_teacher_whose_inspected_file_is_lost_is_inspected_again(api: TestClient, bench: Bench) -> None:
    upload, content = complete(api, bench, "teacher", inspected=True)
    bench.storage.delete(f"uploads/{upload}/teacher.safetensors")
    sha256 = hashlib.sha256(content).hexdigest()
    announced = {"kind": "teacher", "filename": "f", "size": len(content), "sha256": sha256}
    again = api.post("/v1/uploads", json=announced)
    assert (again.status_code, again.json()["id"]) == (200, upload)
    shown = api.get(f"/v1/uploads/{upload}").json()
    assert (shown["state"], shown["inspection_state"]) == ("complete", "pending")
    with bench.database.session() as session:
        claimed = uploads.claim_inspection(session, 60)
    assert claimed is not None
    assert claimed.id == upload


@pytest.mark.usefixtures("inspected_datasets")
@pytest.mark.parametrize("lose", LOSSES)
def test_jobs_and_studies_are_refused_when_a_file_is_lost(
    api: TestClient, bench: Bench, lose: Callable[[Bench, str], None]
) -> None:
    teacher = bench.teacher()
    dataset, _ = complete(api, bench, "dataset", inspected=False)
    job = request(teacher, dataset={"upload": dataset})
    before = api.post("/v1/jobs", json=job)
    assert before.status_code == 202, before.text
    lose(bench, dataset)
    study = {"kind": "compare", "methods": ["lit"], "job": job}
    for path, body, field in (
        ("/v1/jobs", job, "dataset.upload"),
        (f"/v1/jobs/{before.json()['id']}/rerun", {}, "dataset.upload"),
        ("/v1/studies", study, "job.dataset.upload"),
    ):
        refused = api.post(path, json=body)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/upload-unfinished"), refused.text
        assert f"{dataset} has only 0 of its {len(CONTENT)} bytes" in refused.json()["detail"]
        assert [wrong["field"] for wrong in refused.json()["errors"]] == [field]
    assert [made["id"] for made in api.get("/v1/jobs").json()["items"]] == [before.json()["id"]]
    assert patch(api, dataset, 0, CONTENT).status_code == 204
    assert api.post("/v1/jobs", json=job).status_code == 202
    vanish(bench, teacher)
    assert api.post("/v1/jobs", json=job).json()["type"] == "/problems/upload-unfinished"


def test_no_upload_begins_again_because_storage_is_not_mounted(api: TestClient, bench: Bench) -> None:
    upload = begin(api, CONTENT)
    patch(api, upload, 0, CONTENT[:20_000])
    storage = bench.settings.storage_root
    away = storage.rename(storage.with_name("away"))
    storage.mkdir()
    for answer in (
        api.get(f"/v1/uploads/{upload}"),
        api.head(f"/v1/uploads/{upload}"),
        patch(api, upload, 20_000, CONTENT[20_000:]),
        patch(api, upload, 0, CONTENT),
    ):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    storage.rmdir()
    away.rename(storage)
    assert api.head(f"/v1/uploads/{upload}").headers["Upload-Offset"] == "20000"
    assert patch(api, upload, 20_000, CONTENT[20_000:]).status_code == 204
