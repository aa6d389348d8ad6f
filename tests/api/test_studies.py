"""Studies over HTTP: asked for, watched, put into a table, cancelled, resumed and deleted."""

from __future__ import annotations

import csv
import io
import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.ledger import keys
from tests.jobs.study_bench import fail, look, succeed, take, trials, work
from tests.worker.bench import Bench


def request(teacher: str, kind: str = "compare", job: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    student = {} if kind == "depth" else {"student": {"depth": 14}}
    base = {"teacher": teacher, "dataset": {"builtin": "digits"}, "device": "cpu", **student, **(job or {})}
    return {"kind": kind, "job": base, **fields}


def make(api: TestClient, teacher: str, kind: str = "compare", **fields: Any) -> dict[str, Any]:
    answer = api.post("/v1/studies", json=request(teacher, kind, **fields))
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/v1/studies/{made['id']}" == made["links"]["self"]
    return made


def test_a_study_from_its_request_to_its_table(api: TestClient, bench: Bench) -> None:
    study = make(api, bench.teacher(), methods=["lit", "kd"], seeds=[0, 1], name="n", tags=["t"])
    assert (study["state"], study["kind"], study["name"], study["tags"]) == ("running", "compare", "n", ["t"])
    assert study["request"]["methods"] == ["lit", "kd"]
    assert study["spec"]["methods"][1] == {"name": "kd", "method": "kd"}
    assert study["spec"]["job"] == {"exports": [], **study["request"]["job"]}
    assert study["progress"] == {
        **{"planned": 4, "queued": 4, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "stopped": 0}
    }
    assert (study["choice"], study["best_job"], study["next"], study["error"]) == (None, None, [], None)
    assert [row["arm"] for row in study["table"]["rows"]] == ["lit", "kd"]

    jobs = api.get(study["links"]["jobs"]).json()["items"]
    assert [job["trial"] for job in jobs][::-1] == [
        {"arm": arm, "seed": seed} for seed in (0, 1) for arm in ("lit", "kd")
    ]
    assert {job["study_id"] for job in jobs} == {study["id"]}
    assert api.get("/v1/jobs", params={"study": "study_none"}).json()["items"] == []

    work(bench, study["id"], lambda key: 95 + (key["arm"] == "lit") + key["seed"] / 2)
    done = api.get(f"/v1/studies/{study['id']}").json()
    assert (done["state"], done["choice"], done["next"]) == ("succeeded", {"arm": "lit"}, [])
    assert api.get(f"/v1/jobs/{done['best_job']}").json()["trial"] == {"arm": "lit", "seed": 1}
    assert done["progress"]["succeeded"] == 4
    assert done["finished_at"] is not None
    table = api.get(done["links"]["table"]).json()
    assert table == done["table"]
    assert (table["test_metric"], table["teacher"]["test"]) == ("accuracy", 98.0)
    assert [row["test_mean"] for row in table["rows"]] == [96.25, 95.25]
    assert [row["difference_mean"] for row in table["rows"]] == [None, -1.0]


@pytest.mark.parametrize("ask", [{"params": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}])
def test_the_table_as_csv(api: TestClient, bench: Bench, ask: dict[str, Any]) -> None:
    study = make(api, bench.teacher(), methods=["lit", "hint"], inits=["inherit"])
    succeed(bench, take(bench), 95.5)
    answer = api.get(study["links"]["table"], **ask)
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.headers["Vary"] == "Accept"
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [line["arm"] for line in lines] == ["lit-inherit", "hint-inherit"]
    assert (lines[0]["validation_mean"], lines[0]["test_std"], lines[0]["succeeded"]) == ("95.5", "", "1")
    assert (lines[0]["chosen"], lines[1]["chosen"]) == ("true", "false")
    assert list(lines[0]) == api.get(study["links"]["table"]).json()["columns"]


def test_etags_and_waits(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever waits is woken, and does not only look now and then.
    monkeypatch.setattr("api.http.long_polls.LOOK_SECONDS", 60)
    path = make(api, bench.teacher(), methods=["lit"])["links"]["self"]
    etag = api.get(path).headers["ETag"]
    same = api.get(path, headers={"If-None-Match": etag})
    assert (same.status_code, same.content) == (304, b"")
    head = api.head(path)
    assert (head.status_code, head.headers["ETag"], head.content) == (200, etag, b"")
    assert api.head(path, headers={"If-None-Match": etag}).status_code == 304
    claim = take(bench)
    changed = api.get(path, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json()["progress"]["running"]) == (200, 1)
    assert api.get(path, params={"wait": 1}, headers={"If-None-Match": changed.headers["ETag"]}).status_code == 304

    def end() -> None:
        time.sleep(0.3)
        succeed(bench, claim, 95)
        look(bench, path.rsplit("/", 1)[1])

    ending = threading.Thread(target=end)
    ending.start()
    assert api.get(path, params={"wait": 30}).json()["state"] == "succeeded"
    ending.join()


def test_what_comes_next_is_told(api: TestClient, bench: Bench) -> None:
    study = make(api, bench.teacher(), "search", taus=[1, 2], alphas=[0.5, 1], betas=[0.5], seeds=list(range(9)))
    # More than wait at once: the first ten of the rest.
    assert study["progress"]["queued"] == 4
    assert len(study["next"]) == 10
    assert study["next"][0] == {"method": "kd", "tau": 1.0, "alpha": 0.5, "seed": 2}
    assert study["spec"]["taus"] == [1.0, 2.0]
    defaults = make(api, bench.teacher(), "search")["spec"]
    assert defaults["taus"] == [1, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"kind": "grid"}, "kind", "'compare', 'search'"),
        ({"kind": ["compare"]}, "kind", "'compare', 'search'"),
        ({"methods": []}, "methods", "at least 1"),
        ({"methods": ["lit", "litt"]}, "methods.1", "lit-scheduled"),
        ({"methods": ["lit", {"name": "x", "beta": 2}]}, "methods.1.beta", "less than or equal to 1"),
        ({"methods": ["lit", {"name": "x", "betta": 1}]}, "methods.1.betta", "did you mean beta?"),
        ({"methods": ["lit", {"name": "x", "student": {"blocks": [2, 2, 2]}}]}, "methods.1.student", "not several"),
        (
            {"methods": ["lit", {"name": "x", "student": {"depth": 15}}]},
            "methods.1.student.depth",
            "choose one of [8, 14, 20, 26, 32]",
        ),
        ({"methods": ["lit"], "job": {"student": {"depth": 15}}}, "job.student.depth", "choose one of"),
        ({"methods": ["lit"], "job": {"student": {}}}, "job.student", '"depth"'),
        ({"methods": ["lit"], "job": {"alpah": 1}}, "job.alpah", "did you mean alpha?"),
        ({"methods": ["lit"], "job": {"teacher": "upl_none"}}, "job.teacher", "there is no upload 'upl_none'"),
        ({"methods": ["lit"], "job": {"dataset": {"upload": "upl_x"}}}, "job.dataset.upload", "no upload 'upl_x'"),
        ({"methods": ["lit"], "seeds": [1, 1]}, "seeds", "twice"),
        ({"methods": ["lit"], "seeds": [1], "job": {"seed": 1}}, "seeds", "the job has a"),
        ({"methods": ["lit"], "sedes": [1]}, "sedes", "did you mean seeds?"),
        ({"methods": ["lit", {"name": "x", "teacher": "u"}]}, "methods.1.teacher", "same for all arms"),
        ({"kind": "search", "taus": [1, 0]}, "taus.1", "greater than 0"),
        ({"kind": "search", "alphas": [1.5]}, "alphas.0", "less than or equal to 1"),
        ({"kind": "search", "job": {"method": "scratch"}}, "job.method", "no beta"),
        ({"kind": "depth", "job": {"student": {}}}, "front", "max_accuracy_drop"),
        (
            {"kind": "depth", "job": {"student": {}}, "front": True, "depths": [8, 9]},
            "depths.1",
            "choose one of [8, 14, 20, 26, 32]",
        ),
        ({"kind": "depth", "front": True, "job": {"student": {"depth": 8}}}, "job.student.depth", "varies"),
        ({"methods": ["lit"], "job": {"student": {"plan": {}}}}, "job.student.plan", 'a study of kind "plan"'),
        ({"methods": [{"name": "x", "student": {"depth": None, "plan": {}}}]}, "methods.0.student.plan", '"plan"'),
        ({"kind": "plan"}, "job.student.depth", "varies"),
        ({"kind": "plan", "job": {"student": {}}, "students": 1}, "students", "greater than or equal to 2"),
        ({"kind": "plan", "job": {"student": {}}, "seeds": [0, 1]}, "seeds", "trains nothing"),
        ({"kind": "plan", "job": {"student": {"select": "even"}}}, "job.student.select", "recover"),
        ({"kind": "plan", "job": {"student": {}, "method": "scratch"}}, "job.method", "lit, kd, at, mimic"),
        ({"kind": "plan", "job": {"student": {}, "method": "born-again-kd"}}, "job.method", "inherit"),
        ({"kind": "plan", "job": {"student": {"init": "random"}}}, "job.student.init", "inherited"),
        ({"kind": "plan", "job": {"student": {}, "exports": ["onnx"]}}, "job.exports", "trains none"),
        ({"kind": "plan", "job": {"student": {}, "accept": {"max_accuracy_drop": 1}}}, "job.accept", "trains none"),
    ],
)
def test_a_bad_request_names_the_field_and_keeps_nothing(
    api: TestClient, bench: Bench, body: dict[str, Any], field: str, said: str
) -> None:
    whole = request(bench.teacher(), **{"kind": "compare"} | {k: v for k, v in body.items() if k != "job"})
    whole["job"] |= {"student": {"depth": 14}} | body.get("job", {})
    answer = api.post("/v1/studies", json=whole)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "/problems/invalid-request"
    [error] = answer.json()["errors"]
    assert (error["field"], said in error["message"]) == (field, True), error
    assert field in answer.json()["detail"]
    assert api.get("/v1/studies").json()["items"] == []
    assert api.get("/v1/jobs").json()["items"] == []


def test_a_plan_is_made(api: TestClient, bench: Bench) -> None:
    # The paper's students have random blocks, which a plan has no use for.
    study = make(api, bench.teacher(), "plan", job={"student": {}, "preset": "paper"}, students=3)
    assert (study["spec"]["students"], study["spec"]["batch"], study["spec"]["repair"]) == (3, 1, False)
    assert (study["progress"]["planned"], study["progress"]["queued"]) == (1, 1)
    [job] = api.get("/v1/jobs").json()["items"]
    assert job["spec"]["student"]["plan"] == {"students": 3, "batch": 1, "repair": False}
    assert job["spec"]["exports"] == []
    assert study["table"]["columns"][:2] == ["depth", "kept"]


def test_too_many_trials_are_refused(api: TestClient, bench: Bench) -> None:
    arms = [{"name": f"arm{n}", "beta": n / 100} for n in range(100)]
    answer = api.post("/v1/studies", json=request(bench.teacher(), methods=arms, seeds=list(range(101))))
    assert answer.json()["errors"] == [
        {"field": "seeds", "message": "make 10100 trials, but a study may have at most 10000: give fewer"},
    ]


def test_an_idempotency_key_makes_one_study(api: TestClient, bench: Bench) -> None:
    body, headers = request(bench.teacher(), methods=["lit"]), {"Idempotency-Key": "once"}
    first, second = (api.post("/v1/studies", json=body, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    other = api.post("/v1/studies", json=body | {"methods": ["kd"]}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (409, "/problems/idempotency-key-reused")
    as_job = api.post("/v1/jobs", json=body["job"], headers=headers)
    assert (as_job.status_code, as_job.json()["type"]) == (409, "/problems/idempotency-key-reused")
    assert len(api.get("/v1/jobs").json()["items"]) == 1


def test_cancel_resume_and_delete(api: TestClient, bench: Bench) -> None:
    path = make(api, bench.teacher(), methods=["lit", "kd"])["links"]["self"]
    assert api.post(f"{path}/resume").json()["type"] == "/problems/study-not-finished"
    assert api.delete(path).json()["type"] == "/problems/study-not-finished"
    claim = take(bench)
    bench.storage.put_bytes(f"jobs/{claim.job_id}/1/a", b"1")
    succeed(bench, claim, 95)
    cancelled = api.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert cancelled.json()["progress"]["cancelled"] == 1

    resumed = api.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["state"], resumed.json()["round"]) == (202, "running", 2)
    assert resumed.json()["progress"] | {"planned": 2, "queued": 1, "succeeded": 1} == resumed.json()["progress"]
    fail(bench, take(bench))
    look(bench, path.rsplit("/", 1)[1])
    done = api.get(path).json()
    # One arm is whole, and what failed is told.
    assert (done["state"], done["progress"]["failed"], done["table"]["rows"][1]["failed"]) == ("succeeded", 1, 1)
    assert api.post(f"{path}/cancel").json()["type"] == "/problems/study-finished"
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.get("/v1/jobs").json()["items"] == []
    assert not bench.storage.exists(f"jobs/{claim.job_id}/1/a")


def test_an_upload_stays_while_the_study_runs_and_is_missed_by_a_resume(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    path = make(api, teacher, methods=["lit"])["links"]["self"]
    refused = api.delete(f"/v1/uploads/{teacher}")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/upload-in-use")
    assert path.rsplit("/", 1)[1] in refused.json()["detail"]
    assert api.post(f"{path}/cancel").json()["state"] == "cancelled"
    assert api.delete(f"/v1/uploads/{teacher}").status_code == 204
    gone = api.post(f"{path}/resume")
    assert (gone.status_code, gone.json()["type"]) == (409, "/problems/upload-gone")
    assert teacher in gone.json()["detail"]


def test_lists_are_filtered_and_paged_and_leave_the_tables_out(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    made = [
        make(api, teacher, methods=["lit"], name=f"n{n % 2}", tags=["even"] if n % 2 == 0 else [])["id"]
        for n in range(3)
    ]
    page = api.get("/v1/studies", params={"limit": 2}).json()
    rest = api.get("/v1/studies", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [study["id"] for study in page["items"] + rest["items"]] == made[::-1]
    assert {study["table"] for study in page["items"]} == {None}
    assert [study["progress"]["queued"] for study in page["items"]] == [1, 1]
    for filters, expected in (({"tag": "even"}, made[::-2]), ({"name": "n1"}, [made[1]]), ({"state": "failed"}, [])):
        assert [study["id"] for study in api.get("/v1/studies", params=filters).json()["items"]] == expected


def test_another_owners_study_does_not_exist(api: TestClient, bench: Bench) -> None:
    study = make(api, bench.teacher(), methods=["lit"])
    with bench.database.session() as session:
        _, secret = keys.create(session, "other")
    headers = {"Authorization": f"Bearer {secret}"}
    path = study["links"]["self"]
    answers = [
        api.get(path, headers=headers),
        api.get(f"{path}/table", headers=headers),
        api.post(f"{path}/cancel", headers=headers),
        api.post(f"{path}/resume", headers=headers),
        api.delete(path, headers=headers),
    ]
    assert {(answer.status_code, answer.json()["type"]) for answer in answers} == {(404, "/problems/not-found")}
    assert api.get("/v1/studies", headers=headers).json()["items"] == []
    assert len(trials(bench, study["id"])) == 1


def test_the_document_has_the_requests(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"CompareRequest", "SearchRequest", "DepthRequest", "Arm", "Study"} <= set(schemas)
    assert "/v1/studies/{study_id}/table" in document["paths"]
