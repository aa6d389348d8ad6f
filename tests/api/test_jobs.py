"""Looking at jobs over HTTP: states, waits, events, metrics, files."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text, update

from jobs.database.models import Job
from jobs.ledger import attempts, workers
from jobs.ledger.attempts import Artifact, Claim, Event, Metric
from lit_spec import SPEC_VERSION, ErrorType, JobError
from tests.api.conftest import hear_all
from tests.worker.bench import Bench, wait_for


def claim(bench: Bench) -> Claim:
    with bench.database.session() as session:
        claimed = attempts.claim(session, "worker-a", ["cpu"], [SPEC_VERSION], 60)
    assert claimed is not None
    return claimed


def finish(bench: Bench, content: bytes = b"0123456789") -> str:
    job = bench.job()
    claimed = claim(bench)
    key = f"jobs/{job}/1/output/model.safetensors"
    bench.storage.put_bytes(key, content)
    sha256 = hashlib.sha256(content).hexdigest()
    with bench.database.session() as session:
        artifact = Artifact("model.safetensors", key, len(content), sha256)
        attempts.succeed(session, claimed, {"accepted": True, "ratios": {}}, [artifact])
    return job


def test_etags_change_with_what_is_seen_and_not_with_heartbeats(api: TestClient, bench: Bench) -> None:
    job = bench.job()
    path = f"/v1/jobs/{job}"
    claimed = claim(bench)
    etag = api.get(path).headers["ETag"]
    with bench.database.session() as session:
        attempts.heartbeat(session, claimed, 60, 5.0)
    same = api.get(path, headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    with bench.database.session() as session:
        progress = {"phase": "lit", "epoch": 1, "epochs": 2, "fraction": 0.5}
        attempts.record(session, claimed, [Event("epoch")], [], progress, None)
    hear_all(api, bench)
    changed = api.get(path, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.json()["progress"]["epoch"] == 1
    assert changed.json()["worker"] == {"id": "worker-a", "device": "cpu"}


def test_the_head_of_a_job(api: TestClient, bench: Bench) -> None:
    path = f"/v1/jobs/{bench.job()}"
    whole, head = api.get(path), api.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control"):
        assert head.headers[name] == whole.headers[name]
    assert int(whole.headers["Content-Length"]) == len(whole.content)
    assert api.head(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    assert api.head("/v1/jobs/job_none").status_code == 404


def test_a_wait_ends_with_the_change(api: TestClient, bench: Bench) -> None:
    job = bench.job()
    claimed = claim(bench)
    etag = api.get(f"/v1/jobs/{job}").headers["ETag"]

    def change() -> None:
        time.sleep(0.3)
        with bench.database.session() as session:
            attempts.record(session, claimed, [Event("epoch")], [], None, None)
        with bench.database.session() as session:
            attempts.fail(session, claimed, JobError(type=ErrorType.DIVERGED, detail="the loss is not finite"))

    answers: dict[str, Any] = {}

    def ask(name: str, path: str, **options: Any) -> None:
        answers[name] = api.get(path, **options)

    threads = [
        threading.Thread(target=change),
        threading.Thread(target=ask, args=("job", f"/v1/jobs/{job}"), kwargs={"params": {"wait": 30}}),
        threading.Thread(
            target=ask,
            args=("changed", f"/v1/jobs/{job}"),
            kwargs={"params": {"wait": 30}, "headers": {"If-None-Match": etag}},
        ),
        threading.Thread(
            target=ask, args=("events", f"/v1/jobs/{job}/events"), kwargs={"params": {"wait": 30, "after": 2}}
        ),
    ]
    for thread in threads[1:] + threads[:1]:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert answers["job"].json()["state"] == "failed"
    assert answers["job"].json()["error"] == {
        "type": "diverged",
        "detail": "the loss is not finite",
        "field": None,
        "member": None,
    }
    assert answers["changed"].status_code == 200
    assert answers["events"].json()["items"][0]["type"] == "epoch"


def test_a_wait_in_vain_answers_in_time(api: TestClient, bench: Bench) -> None:
    job = bench.job()
    claim(bench)
    etag = api.get(f"/v1/jobs/{job}").headers["ETag"]
    answer = api.get(f"/v1/jobs/{job}", params={"wait": 1}, headers={"If-None-Match": etag})
    assert answer.status_code == 304
    assert api.get(f"/v1/jobs/{job}", params={"wait": 31}).status_code == 422


def test_lists_are_filtered_and_paged(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    made = [bench.job(teacher=teacher, name=f"n{n % 2}", tags=["even"] if n % 2 == 0 else []) for n in range(5)]
    page = api.get("/v1/jobs", params={"limit": 3}).json()
    rest = api.get("/v1/jobs", params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert [job["id"] for job in page["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None
    assert [job["id"] for job in api.get("/v1/jobs", params={"tag": "even"}).json()["items"]] == made[::-2]
    assert [job["id"] for job in api.get("/v1/jobs", params={"name": "n1"}).json()["items"]] == [made[3], made[1]]
    claim(bench)
    assert [job["id"] for job in api.get("/v1/jobs", params={"state": "running"}).json()["items"]] == [made[0]]
    assert api.get("/v1/jobs", params={"state": "done"}).json()["errors"][0]["field"] == "state"


def test_a_queued_job_says_why_it_waits(api: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    first, second = bench.job(teacher=teacher), bench.job(teacher=teacher)
    third = bench.job(teacher=teacher, device="cuda")

    def waiting(job: str) -> Any:
        return api.get(f"/v1/jobs/{job}").json()["waiting"]

    assert waiting(first)["reason"] == "no-worker"
    with bench.database.session() as session:
        workers.register(session, "worker-a", "here", ["cpu"], [SPEC_VERSION])
    # Of a queued job the reason may be a second old.
    wait_for(lambda: waiting(first)["reason"] == "starting")
    assert (waiting(second)["reason"], waiting(second)["position"]) == ("position", 2)
    assert waiting(third)["reason"] == "no-worker"
    assert "cuda" in waiting(third)["detail"]
    claim(bench)
    hear_all(api, bench)
    assert waiting(first) is None


def test_events_and_metrics(api: TestClient, bench: Bench) -> None:
    job = bench.job()
    claimed = claim(bench)
    with bench.database.session() as session:
        metrics = [
            Metric("lit", 1, "loss", 0.5),
            Metric("fine_tune", 1, "loss", 0.25),
            Metric("lit", 1, "kd_loss", 1.0),
        ]
        attempts.record(session, claimed, [Event("epoch", {"epoch": 1})], metrics, None, None)
    events = api.get(f"/v1/jobs/{job}/events").json()
    assert [(event["seq"], event["type"]) for event in events["items"]] == [(1, "queued"), (2, "claimed"), (3, "epoch")]
    assert events["last"] == 3
    page = api.get(f"/v1/jobs/{job}/events", params={"after": 1, "limit": 1}).json()
    assert ([event["seq"] for event in page["items"]], page["last"]) == ([2], 3)
    items = api.get(f"/v1/jobs/{job}/metrics").json()["items"]
    assert [(m["phase"], m["name"]) for m in items] == [("lit", "kd_loss"), ("lit", "loss"), ("fine_tune", "loss")]
    one = api.get(f"/v1/jobs/{job}/metrics", params={"phase": "lit", "name": "loss"}).json()["items"]
    assert one == [{"phase": "lit", "epoch": 1, "name": "loss", "value": 0.5}]
    assert api.get(f"/v1/jobs/{job}/metrics", params={"phase": "x"}).json()["errors"][0]["field"] == "phase"


def test_cancel_and_delete(api: TestClient, bench: Bench) -> None:
    waits, runs = bench.job(), bench.job()
    claim(bench)  # the older one
    waits, runs = runs, waits
    assert api.delete(f"/v1/jobs/{runs}").json()["type"] == "/problems/job-not-finished"
    assert api.post(f"/v1/jobs/{waits}/cancel").json()["state"] == "cancelled"
    asked = api.post(f"/v1/jobs/{runs}/cancel")
    assert (asked.status_code, asked.json()["state"], asked.json()["cancel_requested"]) == (202, "running", True)
    assert api.post(f"/v1/jobs/{runs}/cancel").status_code == 202
    assert api.delete(f"/v1/jobs/{waits}").status_code == 204
    assert api.get(f"/v1/jobs/{waits}").status_code == 404
    done = finish(bench)
    assert api.post(f"/v1/jobs/{done}/cancel").json()["type"] == "/problems/job-finished"
    assert api.delete(f"/v1/jobs/{done}").status_code == 204
    assert bench.storage.list(f"jobs/{done}/") == []


def test_downloads(api: TestClient, bench: Bench) -> None:
    job = finish(bench)
    [artifact] = api.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    whole = api.get(artifact["href"])
    sha256 = hashlib.sha256(b"0123456789").digest()
    assert whole.content == b"0123456789"
    assert artifact["sha256"] == sha256.hex()
    assert whole.headers["ETag"] == f'"{sha256.hex()}"'
    assert whole.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(sha256).decode()}:"
    assert whole.headers["Content-Length"] == "10"
    head = api.head(artifact["href"])
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "10")
    for known in (whole.headers["ETag"], "W/" + whole.headers["ETag"], '"x", W/' + whole.headers["ETag"], "*"):
        assert api.get(artifact["href"], headers={"If-None-Match": known}).status_code == 304
    assert api.get(artifact["href"], headers={"If-None-Match": 'W/"x"'}).status_code == 200
    assert api.get(f"/v1/jobs/{job}/artifacts/other").status_code == 404
    assert api.get(f"/v1/jobs/{job}/artifacts/..%2Ftrainer.log").status_code == 404
    # As when the job is deleted just now.
    bench.storage.delete_prefix(f"jobs/{job}/")
    gone = api.get(artifact["href"])
    assert (gone.status_code, gone.json()["type"]) == (404, "/problems/not-found")


@pytest.mark.parametrize(
    ("header", "status", "content", "range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=3-1", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=" + "9" * 5000 + "-", 416, None, "bytes */10"),
        ("bytes=-" + "9" * 5000, 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=4-" + "9" * 5000, 206, b"456789", "bytes 4-9/10"),
        ("bytes=" + "0" * 5000 + "4-5", 206, b"45", "bytes 4-5/10"),
    ],
)
def test_ranges(
    api: TestClient, bench: Bench, header: str, status: int, content: bytes | None, range: str | None
) -> None:
    path = f"/v1/jobs/{finish(bench)}/artifacts/model.safetensors"
    answer = api.get(path, headers={"Range": header})
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == range
    if content is not None:
        assert answer.content == content
        etag = answer.headers["ETag"]
        assert api.get(path, headers={"Range": header, "If-Range": etag}).status_code == status
        assert api.get(path, headers={"Range": header, "If-Range": '"other"'}).status_code == 200


def test_a_specification_of_another_version_is_shown_as_it_is_stored(api: TestClient, bench: Bench) -> None:
    job = bench.job()
    with bench.database.session() as session:
        session.execute(update(Job).where(Job.id == job).values(spec=Job.spec.concat({"of_yesterday": 1})))
    assert api.get(f"/v1/jobs/{job}").json()["spec"]["of_yesterday"] == 1
    assert [shown["id"] for shown in api.get("/v1/jobs").json()["items"]] == [job]


def test_an_error_type_that_only_newer_workers_know_is_shown(api: TestClient, bench: Bench) -> None:
    """As during an upgrade, when workers are newer than the API."""
    job = bench.job()
    claimed = claim(bench)
    with bench.database.session() as session:
        attempts.fail(session, claimed, JobError(type=ErrorType.BAD_DATASET, detail="as new workers say"))
        error = {"type": "of-tomorrow", "detail": "as new workers say"}
        session.execute(text("ALTER TABLE jobs DISABLE TRIGGER USER"))
        session.execute(update(Job).where(Job.id == job).values(error=error))
        session.execute(text("ALTER TABLE jobs ENABLE TRIGGER USER"))
    assert api.get(f"/v1/jobs/{job}").json()["error"] == error | {"field": None, "member": None}


def test_the_log(api: TestClient, bench: Bench) -> None:
    job = bench.job()
    assert api.get(f"/v1/jobs/{job}/log").text == ""
    claim(bench)
    bench.storage.put_bytes(f"jobs/{job}/1/trainer.log", "epoch 1 ✓\n".encode())
    answer = api.get(f"/v1/jobs/{job}/log")
    assert answer.text == "epoch 1 ✓\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert api.get(f"/v1/jobs/{job}/log", params={"attempt": 2}).status_code == 404
