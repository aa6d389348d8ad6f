"""Trackers in requests and in answers: nothing here needs a tracking server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobs.ledger import attempts
from jobs.tracking import runs
from jobs.tracking.trackers import Trackers
from lit_spec import SPEC_VERSION
from tests.api.conftest import hear_all
from tests.worker.bench import Bench

URI = "http://mlflow:5000"


@pytest.fixture
def api(bench: Bench) -> Iterator[TestClient]:
    bench.settings = bench.settings.model_copy(update={"mlflow_tracking_uri": URI})
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
        yield client


def body(bench: Bench, **fields: Any) -> dict[str, Any]:
    return {"teacher": bench.teacher(), "dataset": {"builtin": "digits"}, "student": {"depth": 14}, **fields}


def test_a_job_answers_its_run(api: TestClient, bench: Bench) -> None:
    asked = body(bench, register="student", track={"mlflow": {"experiment": "digits"}}, tensorboard=True)
    made = api.post("/v1/jobs", json=asked)
    assert made.status_code == 202, made.text
    assert made.json()["tracking"] is None
    assert made.json()["spec"]["tensorboard"] is True
    url = f"/v1/jobs/{made.json()['id']}"
    with bench.database.session() as session:
        assert attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60, trackers=Trackers.of(bench.settings))
    before = api.get(url)
    assert before.json()["tracking"]["mlflow"]["run_id"] is None
    with bench.database.session() as session:
        taken = runs.take(session)
        assert taken is not None
        registered = {"name": "student", "version": "2"}
        values = {"stage": "complete", "run_id": "r", "experiment_id": "3", "registered": registered, "error": "e"}
        runs.write(session, taken[0], **values)
    hear_all(api, bench)
    expected = {
        "tracking_uri": URI,
        "run_id": "r",
        "experiment_id": "3",
        "url": f"{URI}/#/experiments/3/runs/r",
        "complete": True,
        "registered": registered,
        "error": "e",
    }
    after = api.get(url, headers={"If-None-Match": before.headers["ETag"]})
    assert after.status_code == 200
    assert after.json()["tracking"] == {"mlflow": expected}
    assert api.get("/v1/jobs").json()["items"][0]["tracking"] == {"mlflow": expected}
    assert api.post(f"{url}/cancel").json()["tracking"] == {"mlflow": expected}


def test_what_is_not_allowed_is_refused_with_its_field(api: TestClient, bench: Bench) -> None:
    def refused(path: str, asked: dict[str, Any]) -> tuple[int, str, list[str]]:
        answer = api.post(path, json=asked)
        return answer.status_code, answer.json()["detail"], [wrong["field"] for wrong in answer.json()["errors"]]

    elsewhere = {"mlflow": {"tracking_uri": "http://elsewhere:5000"}}
    job = body(bench, track=elsewhere)
    status, detail, fields = refused("/v1/jobs", job)
    assert (status, fields) == (422, ["track.mlflow.tracking_uri"])
    assert URI in detail
    study = {"kind": "compare", "methods": ["lit", "kd"]}
    assert refused("/v1/studies", {**study, "job": job})[2] == ["job.track.mlflow.tracking_uri"]
    job["track"] = {"mlflow": {}}
    arms = {**study, "methods": ["lit", {"name": "away", "track": elsewhere}], "job": job}
    assert refused("/v1/studies", arms)[0] == 422
    status, detail, fields = refused("/v1/studies", {**study, "job": {**job, "register": "student"}})
    assert (status, fields) == (422, ["job.register"])
    assert "rerun the study's best job" in detail
    assert refused("/v1/jobs", {**job, "track": {"mlflow": {"tags": {"lit.x": "1"}}}})[2] == ["track.mlflow.tags"]
    assert refused("/v1/jobs", {**job, "track": {"mlflow": True}})[2] == ["track.mlflow"]
    assert api.get("/v1/jobs").json()["items"] == []


def test_trials_carry_the_track_of_their_study(api: TestClient, bench: Bench) -> None:
    track = {"mlflow": {"experiment": "methods", "tags": {"team": "a"}}}
    asked = {"kind": "compare", "methods": ["lit", "kd"], "name": "s", "job": body(bench, track=track)}
    made = api.post("/v1/studies", json=asked)
    assert made.status_code == 202, made.text
    trials = api.get("/v1/jobs", params={"study": made.json()["id"]}).json()["items"]
    assert [trial["request"]["track"] for trial in trials] == [track, track]
