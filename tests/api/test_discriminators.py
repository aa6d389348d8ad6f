"""A generator's discriminator as a second network of a job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.ledger import uploads
from lit_spec import ErrorType, JobError
from tests.lit_spec.test_translation import discriminator, generator
from tests.worker.bench import Bench


def request(bench: Bench, **changes: Any) -> dict[str, Any]:
    teacher = bench.teacher(inspection=generator())
    return {"teacher": teacher, "dataset": {"upload": bench.dataset()}, "student": {"blocks": [2]}, **changes}


def test_a_job_holds_its_discriminator(api: TestClient, bench: Bench) -> None:
    found = bench.teacher(b"a discriminator", discriminator())
    job = api.post("/v1/jobs", json=request(bench, discriminator=found)).json()
    assert job["spec"]["discriminator"]["upload"] == found
    assert job["spec"]["discriminator"]["architecture"]["options"]["image_size"] == 128
    assert job["spec"]["adversarial"]["n_critic"] == 5
    refused = api.delete(f"/v1/uploads/{found}")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/upload-in-use")
    api.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.delete(f"/v1/uploads/{found}").status_code == 204


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"discriminator": "upl_none"}, "discriminator", "there is no upload 'upl_none'"),
        ({"discriminator": "the data set"}, "discriminator", "is a dataset: give the id of a teacher upload"),
        ({"discriminator": "the generator"}, "discriminator", "is not a discriminator"),
        ({"discriminator": "another"}, "discriminator", "has 4 domains, but the generator has 5"),
        ({"discriminator": "one", "precision": "bfloat16"}, "precision", "float32"),
        ({"adversarial": {}}, "adversarial", "needs a `discriminator`"),
        ({"adversarial": {"n_critic": 0}}, "adversarial.n_critic", "greater than or equal to 1"),
        ({"teacher": "one"}, "teacher", "give the generator as"),
    ],
)
def test_a_discriminator_that_does_not_fit_is_refused(
    api: TestClient, bench: Bench, changes: dict[str, Any], field: str, said: str
) -> None:
    body = request(bench)
    ids = {
        "the data set": body["dataset"]["upload"],
        "the generator": body["teacher"],
        "one": bench.teacher(inspection=discriminator()),
        "another": bench.teacher(inspection=discriminator(domains=4)),
    }
    named = {name: ids.get(value, value) if isinstance(value, str) else value for name, value in changes.items()}
    answer = api.post("/v1/jobs", json=body | named)
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert said in error["message"]


def sent(api: TestClient, content: bytes) -> str:
    """A teacher upload that waits for its inspection."""
    upload = api.post("/v1/uploads", json={"kind": "teacher", "filename": "t.pt", "size": len(content)}).json()
    headers = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert api.patch(f"/v1/uploads/{upload['id']}", content=content, headers=headers).status_code == 204
    return str(upload["id"])


def test_a_discriminator_that_is_none_is_told_by_its_own_field(api: TestClient, bench: Bench) -> None:
    broken = sent(api, b"PK\x03\x04 nothing")
    with bench.database.session() as session:
        error = JobError(type=ErrorType.BAD_TEACHER, detail="this checkpoint is none", field="teacher")
        uploads.finish_inspection(session, broken, inspection=None, error=error)
    answer = api.post("/v1/jobs", json=request(bench, discriminator=broken))
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-teacher")
    assert answer.json()["errors"] == [{"field": "discriminator", "message": "this checkpoint is none"}]


def test_a_discriminators_inspection_is_awaited(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.requests.INSPECTION_SECONDS", 0.2)
    waiting = sent(api, b"PK\x03\x04 one")
    answer = api.post("/v1/jobs", json=request(bench, discriminator=waiting))
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/inspection-pending")
    assert f"the upload {waiting} (discriminator) has not been inspected yet" in answer.json()["detail"]


@pytest.mark.usefixtures("inspected_datasets")
def test_a_form_takes_a_discriminator(api: TestClient, bench: Bench) -> None:
    content = {"teacher": b"PK\x03\x04 G", "discriminator": b"PK\x03\x04 D", "dataset": b"PK\x03\x04 x"}
    known = {}
    for name, inspection in (("teacher", generator()), ("discriminator", discriminator())):
        known[name] = sent(api, content[name])
        bench.inspected(known[name], inspection)
    files = {name: (name, data) for name, data in content.items()}
    job = {"student": {"blocks": [2]}}
    answer = api.post("/v1/jobs", data={"job": json.dumps(job)}, files=files)
    assert answer.status_code == 202, answer.text
    assert {name: answer.json()["request"][name] for name in known} == known
    twice = {**job, "discriminator": "upl_x"}
    answer = api.post("/v1/jobs", data={"job": json.dumps(twice)}, files=files)
    assert answer.json()["errors"][0]["field"] == "discriminator"
