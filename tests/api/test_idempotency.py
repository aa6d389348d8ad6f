"""Idempotency keys: what is the same request, and what a request that is sent again is answered."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from jobs.storage.folder import FolderStorage
from tests.api.test_job_requests import bench_teacher_with, request
from tests.api.test_jobs import finish
from tests.worker.bench import Bench

KEY = {"Idempotency-Key": "once"}
REUSED = (409, "/problems/idempotency-key-reused")


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


def jobs(api: TestClient) -> list[str]:
    return [job["id"] for job in api.get("/v1/jobs").json()["items"]]


def test_an_idempotency_key_makes_one_job(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    first, second = (api.post("/v1/jobs", json=body, headers=KEY) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert first.headers["Location"] == second.headers["Location"]
    assert told(api.post("/v1/jobs", json=body | {"seed": 1}, headers=KEY)) == REUSED
    assert len(jobs(api)) == 1


def test_the_same_values_are_the_same_request(api: TestClient, bench: Bench) -> None:
    rest = f'"teacher": "{bench.teacher()}", "dataset": {{"builtin": "digits"}}'
    headers = KEY | {"Content-Type": "application/json"}
    bodies = [
        f'{{"tau": 4, "alpha": 0, "student": {{"blocks": [2, 2, 2]}}, "schedule": {{"batch_size": 9}}, {rest}}}',
        f'{{"tau": 4e0, "alpha": 0e3, "student": {{"blocks": [2.0,2,2]}}, "schedule": {{"batch_size": 9e0}}, {rest}}}',
        f'{{{rest}, "schedule": {{"batch_size": 9}}, "student": {{"blocks": [2, 2, 2]}}, "alpha": 0, "tau": 40e-1}}',
    ]
    answers = [api.post("/v1/jobs", content=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [202, 202, 202], answers[1].text
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert told(api.post("/v1/jobs", content=bodies[0].replace('"tau": 4', '"tau": 5'), headers=headers)) == REUSED


def test_a_large_number_is_not_rounded(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher(), seed=2**62)
    assert api.post("/v1/jobs", json=body, headers=KEY).status_code == 202
    assert told(api.post("/v1/jobs", json=body | {"seed": 2**62 + 1}, headers=KEY)) == REUSED


def form(job: dict[str, Any], **files: bytes) -> dict[str, Any]:
    return {
        "data": {"job": json.dumps(job)},
        "files": {name: (name, content) for name, content in files.items()},
        "headers": KEY,
    }


@pytest.mark.usefixtures("inspected_datasets")
def test_a_form_is_the_same_after_its_upload_was_deleted(api: TestClient, bench: Bench) -> None:
    content = b"PK\x03\x04 a teacher as torch.save writes it"
    bench_teacher_with(api, bench, content)
    job = {"student": {"depth": 14}}
    sent = form(job, teacher=content, dataset=b"PK\x03\x04 arrays")
    first = api.post("/v1/jobs", **sent)
    assert first.status_code == 202, first.text
    made = first.json()
    api.post(f"/v1/jobs/{made['id']}/cancel")
    for upload in (made["request"]["teacher"], made["request"]["dataset"]["upload"]):
        assert api.delete(f"/v1/uploads/{upload}").status_code == 204
    again = api.post("/v1/jobs", **sent)
    assert (again.status_code, again.json()["id"]) == (202, made["id"])
    # Nothing was stored for it.
    assert api.get("/v1/uploads").json()["items"] == []

    assert told(api.post("/v1/jobs", **form(job, teacher=content, dataset=b"other arrays"))) == REUSED
    assert told(api.post("/v1/jobs", **form(job, teacher=content))) == REUSED
    assert (
        told(api.post("/v1/jobs", **form({**job, "seed": 1}, teacher=content, dataset=b"PK\x03\x04 arrays"))) == REUSED
    )
    swapped = form(job, dataset=content, teacher=b"PK\x03\x04 arrays")
    assert told(api.post("/v1/jobs", **swapped)) == REUSED
    assert jobs(api) == [made["id"]]


@pytest.mark.usefixtures("inspected_datasets")
def test_a_form_beside_its_first_transfer(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is still storing its file when the second comes and overtakes it."""
    write_piece, storing, go_on = FolderStorage.write_piece, threading.Event(), threading.Event()

    def slow_at_first(storage: FolderStorage, key: str, offset: int, piece: bytes, writer: int) -> None:
        if not storing.is_set():
            storing.set()
            assert go_on.wait(30)
        write_piece(storage, key, offset, piece, writer)

    monkeypatch.setattr(FolderStorage, "write_piece", slow_at_first)
    teacher = bench.teacher()
    sent = form({"teacher": teacher, "student": {"depth": 14}}, dataset=b"PK\x03\x04 arrays")
    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(api.post("/v1/jobs", **sent)))
    first.start()
    assert storing.wait(30)
    second = api.post("/v1/jobs", **sent)
    go_on.set()
    first.join(30)
    assert (second.status_code, answers[0].status_code) == (202, 202), answers[0].text
    assert jobs(api) == [second.json()["id"]] == [answers[0].json()["id"]]
    # What the first has stored is of no use to anybody.
    stored = {upload["id"] for upload in api.get("/v1/uploads").json()["items"] if upload["kind"] == "dataset"}
    assert stored == {second.json()["request"]["dataset"]["upload"]}
    assert {key.split("/")[1] for key in bench.storage.list("uploads/")} == stored | {teacher}


def test_a_rerun_is_the_same_after_its_job_was_deleted(api: TestClient, bench: Bench) -> None:
    before, other = finish(bench), bench.job()
    sent = {"json": {"seed": 5}, "headers": KEY}
    first = api.post(f"/v1/jobs/{before}/rerun", **sent)
    assert first.status_code == 202, first.text
    assert told(api.post(f"/v1/jobs/{other}/rerun", **sent)) == REUSED
    assert told(api.post(f"/v1/jobs/{before}/rerun", json={"seed": 6}, headers=KEY)) == REUSED
    assert api.delete(f"/v1/jobs/{before}").status_code == 204
    again = api.post(f"/v1/jobs/{before}/rerun", **sent)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


def test_a_request_is_the_same_after_its_upload_was_deleted(api: TestClient, bench: Bench) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    body = request(teacher, dataset={"upload": dataset})
    study = {"kind": "compare", "methods": ["lit"], "job": body}
    for path, sent in (("/v1/jobs", body), ("/v1/studies", study)):
        headers = {"Idempotency-Key": path}
        made = api.post(path, json=sent, headers=headers)
        assert made.status_code == 202, made.text
        api.post(f"{made.headers['Location']}/cancel")
    assert api.delete(f"/v1/uploads/{dataset}").status_code == 204
    assert api.delete(f"/v1/uploads/{teacher}").status_code == 204
    for path, sent in (("/v1/jobs", body), ("/v1/studies", study)):
        again = api.post(path, json=sent, headers={"Idempotency-Key": path})
        assert (again.status_code, again.json()["state"]) == (202, "cancelled")


@pytest.mark.parametrize("body", ['{"teacher": "a", "teacher": "b"}', '{"student": {"depth": 8, "depth": 14}}'])
def test_a_field_that_is_given_twice(api: TestClient, body: str) -> None:
    """Which of two values counts would depend on who reads the request."""
    as_json = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    as_form = api.post("/v1/jobs", data={"job": body}, files={"dataset": ("d", b"x")})
    for answer in (as_json, as_form):
        assert told(answer) == (400, "/problems/bad-request")
        assert "twice" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/uploads", "/v1/jobs/{job}/rerun"])
@pytest.mark.parametrize("depth", [10, 200, 400, 900])
def test_deep_values_are_mistakes_like_others(api: TestClient, bench: Bench, path: str, depth: int) -> None:
    job = bench.job()
    deep = "[" * depth + "1.0" + "]" * depth
    arm = f'{{"name": "x", "student": {deep}}}'
    fields = f'"size": {deep}, "student": {{"blocks": {deep}}}, "kind": "compare", "methods": ["lit", {arm}]'
    base = '"job": {"teacher": "upl_a", "dataset": {"builtin": "digits"}, "student": {"depth": 8}}'
    answer = api.post(
        path.format(job=job), content=f"{{{fields}, {base}}}", headers=KEY | {"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}, answer.text
