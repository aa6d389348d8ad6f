"""What a request for a job costs the ledger, and what it keeps of its promises beside others at the same moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.http.request_ids import HEADER, current_request_id
from api.jobs import listed_jobs
from jobs.database.models import AuditEntry, Event, IdempotencyKey, Job, JobTag, JobUpload, WebhookDelivery
from jobs.ledger import keys, uploads
from jobs.webhooks import webhooks
from lit_spec import Inspection
from tests.api.test_job_requests import request
from tests.jobs.racing import together
from tests.worker.bench import INSPECTION, OWNER, Bench

SHALLOWER = INSPECTION.model_copy(
    update={"architecture": INSPECTION.architecture.model_copy(update={"depth": 14, "blocks": [2, 2, 2]})}
)
"""A teacher of which the requests' students would be as deep as itself."""


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How many statements the requests with an id of their own send to the ledger, by this id."""
    sent: Counter[str] = Counter()
    execute = psycopg.Cursor.execute

    def count(cursor: psycopg.Cursor[Any], *args: Any, **kwargs: Any) -> object:
        if (request_id := current_request_id()) is not None:
            sent[request_id] += 1
        return execute(cursor, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.Cursor, "execute", count)
        yield sent


def make(api: TestClient, body: dict[str, Any], request_id: str, **headers: str) -> dict[str, Any]:
    answer = api.post("/v1/jobs", json=body, headers={HEADER: request_id, **headers})
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_job_takes_one_statement(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    body = request(bench.teacher(), tags=["a", "b", "a"], dataset={"upload": bench.dataset()})
    make(api, body, "first")
    with statements(monkeypatch) as sent:
        make(api, body, "plain")
        make(api, body, "keyed", **{"Idempotency-Key": "k"})
        api.get("/v1/jobs", headers={HEADER: "list"})
        api.get("/v1/jobs", headers={HEADER: "again"})
    assert sent == {"plain": 1, "keyed": 2, "list": 3, "again": 1}


def test_all_that_belongs_to_a_job_is_made_with_it(api: TestClient, bench: Bench) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    made = make(
        api,
        request(teacher, name="nightly", tags=["a", "b", "a"], dataset={"upload": dataset}),
        "the-request",
        **{"Idempotency-Key": "k"},
    )
    assert (made["name"], made["tags"], made["state"], made["kept"]) == ("nightly", ["a", "b", "a"], "queued", False)
    with bench.database.session() as session:
        job = session.scalars(select(Job)).one()
        assert (job.id, job.owner, job.event_seq, job.version, job.attempt) == (made["id"], "local", 1, 1, 0)
        assert (job.spec, job.request) == (made["spec"], made["request"])
        events = session.scalars(select(Event)).all()
        assert [(event.job_id, event.seq, event.attempt, event.type, event.data) for event in events] == [
            (job.id, 1, 0, "queued", {})
        ]
        assert {row.upload_id for row in session.scalars(select(JobUpload))} == {teacher, dataset}
        assert sorted(row.tag for row in session.scalars(select(JobTag))) == ["a", "b"]
        assert session.scalars(select(IdempotencyKey)).one().job_id == job.id
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "job.create")).one()
        assert (entry.object_id, entry.kind, entry.owner, entry.outcome) == (job.id, "job", "local", "done")
        assert (entry.request_id, entry.address, entry.detail) == ("the-request", "127.0.0.1", None)
    rerun = api.post(f"/v1/jobs/{made['id']}/rerun", json={}).json()
    [entry] = api.get("/v1/audit?action=job.rerun").json()["items"]
    assert (entry["object_id"], entry["detail"]) == (rerun["id"], {"of": made["id"]})
    assert api.get(f"/v1/jobs/{made['id']}").json() | {"waiting": None} == made


def test_requests_with_one_key_at_the_same_moment_make_one_job(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    make(api, body, "first")
    for number in range(3):
        sent = {"Idempotency-Key": f"key {number}"}
        answers = together([lambda sent=sent: api.post("/v1/jobs", json=body, headers=sent)] * 8)  # type: ignore[misc]
        assert [answer.status_code for answer in answers] == [202] * 8
        assert len({answer.json()["id"] for answer in answers}) == 1
    with bench.database.session() as session:
        assert len(session.scalars(select(Job)).all()) == 4
        assert len(session.scalars(select(AuditEntry).where(AuditEntry.action == "job.create")).all()) == 4


def test_a_job_and_a_study_with_one_key_at_the_same_moment(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    make(api, body, "first")
    study = {"kind": "compare", "methods": ["lit"], "job": body}
    for number in range(4):
        headers = {"Idempotency-Key": f"key {number}"}
        answers = together(
            [
                lambda path=path, sent=sent, headers=headers: api.post(path, json=sent, headers=headers)  # type: ignore[misc]
                for path, sent in (("/v1/jobs", body), ("/v1/studies", study))
            ]
        )
        assert sorted(answer.status_code for answer in answers) == [202, 409]


def test_a_limited_owner_never_gets_more_jobs(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    make(api, body, "first")
    assert api.put("/v1/owners/local/quotas", json={"jobs_queued": 4}).status_code == 200
    answers = together([lambda: api.post("/v1/jobs", json=body)] * 8)
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5
    # No limit for this owner.
    assert api.put("/v1/owners/local/quotas", json={"jobs_queued": None}).status_code == 200
    make(api, body, "unlimited")


def test_a_webhook_is_told_of_the_next_job(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    make(api, body, "first")
    with bench.database.session() as session:
        wanted: dict[str, Any] = {"name": None, "events": ["job.queued"], "tags": ["told"], "enabled": True}
        webhooks.create(session, OWNER, url="https://example.org/", **wanted)
    made = make(api, body | {"tags": ["told"]}, "second")
    make(api, body, "third")
    with bench.database.session() as session:
        delivery = session.scalars(select(WebhookDelivery)).one()
        assert (delivery.type, delivery.data["id"]) == ("job.queued", made["id"])


def test_an_upload_that_is_inspected_again_is_looked_at_again(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    body = request(teacher)
    assert make(api, body, "first")["spec"]["teacher"]["architecture"]["depth"] == 38

    def inspect(found: Inspection) -> None:
        with bench.database.session() as session:
            uploads.inspect_again(session, uploads.get(session, OWNER, teacher, lock=True))
        bench.inspected(teacher, found)

    inspect(SHALLOWER)
    refused = api.post("/v1/jobs", json=body)
    assert (refused.status_code, [error["field"] for error in refused.json()["errors"]]) == (422, ["student.depth"])
    # What was known when it was refused refuses nothing later.
    inspect(INSPECTION)
    assert make(api, body, "deeper")["spec"]["teacher"]["architecture"]["depth"] == 38
    inspect(SHALLOWER)
    shallower = make(api, request(teacher, student={"depth": 8}), "shallower")
    assert shallower["spec"]["teacher"]["architecture"]["depth"] == 14


def test_an_upload_that_is_gone_is_not_used(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    lost = request(bench.teacher(b"another teacher"))
    for known in (body, lost):
        api.post(f"/v1/jobs/{make(api, known, 'first')['id']}/cancel")
    assert api.delete(f"/v1/uploads/{body['teacher']}").status_code == 204
    refused = api.post("/v1/jobs", json=body)
    assert (refused.status_code, [error["field"] for error in refused.json()["errors"]]) == (422, ["teacher"])
    bench.storage.delete_prefix(f"uploads/{lost['teacher']}/")
    assert api.post("/v1/jobs", json=lost).json()["type"] == "/problems/upload-unfinished"


def test_what_is_known_of_one_owners_uploads_is_not_used_for_another(api: TestClient, bench: Bench) -> None:
    with bench.database.session() as session:
        secrets = [keys.create(session, owner, owner=owner)[1] for owner in (OWNER, "another")]
    mine, theirs = ({"Authorization": f"Bearer {secret}"} for secret in secrets)
    body = request(bench.teacher())
    for _ in range(2):
        assert api.post("/v1/jobs", json=body, headers=mine).status_code == 202
        assert api.post("/v1/jobs", json=body, headers=theirs).status_code == 422
    assert len(api.get("/v1/jobs", headers=mine).json()["items"]) == 2
    assert api.get("/v1/jobs", headers=theirs).json()["items"] == []


def test_a_list_shows_each_change_at_once(api: TestClient, bench: Bench) -> None:
    body = request(bench.teacher())
    first, second = (make(api, body, "one")["id"] for _ in range(2))

    def listed() -> list[tuple[str, str, bool]]:
        items = api.get("/v1/jobs").json()["items"]
        for item in items:
            assert api.get(f"/v1/jobs/{item['id']}").json() | {"waiting": None} == item
        return [(item["id"], item["state"], item["kept"]) for item in items]

    assert listed() == listed() == [(second, "queued", False), (first, "queued", False)]
    api.post(f"/v1/jobs/{second}/cancel")
    assert listed() == [(second, "cancelled", False), (first, "queued", False)]
    api.post(f"/v1/jobs/{second}/keep")
    assert listed() == [(second, "cancelled", True), (first, "queued", False)]
    api.delete(f"/v1/jobs/{second}/keep")
    assert listed() == [(second, "cancelled", False), (first, "queued", False)]
    assert api.delete(f"/v1/jobs/{second}").status_code == 204
    assert listed() == [(first, "queued", False)]


def test_what_lists_keep_in_memory_is_bounded_in_bytes(
    api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = request(bench.teacher())
    body["dataset"]["class_order"] = [f"{number}{'n' * 10_000}" for number in range(10)]
    made = [make(api, body, "large")["id"] for _ in range(3)]
    kept = api.app.state.context.listed_jobs._kept  # type: ignore[attr-defined]
    monkeypatch.setattr(listed_jobs, "KEPT_BYTES", 500_000)
    for _ in range(2):
        assert [item["id"] for item in api.get("/v1/jobs").json()["items"]] == made[::-1]
        sizes = [len(shown.content) for shown in kept.values()]
        assert len(sizes) == 2
        assert sum(sizes) <= 500_000
