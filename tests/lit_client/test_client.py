"""Requests, answers and errors of `Client`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from lit_client import (
    Client,
    InspectionFailed,
    LitError,
    ProblemError,
    ServiceUnreachable,
    UnexpectedAnswer,
    WaitTimeout,
)
from lit_spec import JobRequest

REQUEST = {"teacher": "upl_x", "dataset": {"builtin": "digits"}, "student": {"depth": 14}}


def test_retried_post_makes_one_job(client, faulty, fault):
    faulty.faults["POST"].extend([fault(lose_answer=True), fault(lose_answer=True)])
    job = client.create_job(REQUEST)
    assert job.id == "job_0"
    assert faulty.count("POST", "/v1/jobs") == 3
    assert len(faulty.jobs) == 1


def test_two_calls_make_two_jobs_unless_the_key_is_given(client, faulty):
    assert client.create_job(REQUEST).id != client.create_job(REQUEST).id
    assert client.create_job(REQUEST, idempotency_key="k").id == client.create_job(REQUEST, idempotency_key="k").id
    assert len(faulty.jobs) == 3


def test_request_model_sends_only_what_was_set(client, faulty):
    client.create_job(JobRequest.model_validate(REQUEST | {"alpha": 0.25}))
    assert faulty.jobs["job_0"]["request"] == REQUEST | {"alpha": 0.25}


def test_etag_answers_none_while_nothing_changed(client, faulty):
    job = client.create_job(REQUEST)
    job = client.job(job.id)
    assert job.etag
    assert client.job(job.id, etag=job.etag) is None
    faulty.jobs[job.id]["state"] = "running"
    changed = client.job(job.id, etag=job.etag)
    assert changed is not None
    assert changed.state == "running"


def test_lists_go_over_pages_up_to_the_limit(client):
    made = [client.create_job(REQUEST).id for _ in range(5)]
    assert [job.id for job in client.jobs()] == made
    assert [job.id for job in client.jobs(limit=3)] == made[:3]


def test_follow_gives_each_event_once_and_ends_with_the_job(client, faulty):
    job = client.create_job(REQUEST)
    faulty.events = [{"seq": n, "attempt": 1, "type": "epoch", "data": {"epoch": n}} for n in range(1, 6)]
    seen = []
    for event in client.follow(job.id):
        seen.append(event.seq)
        if event.seq == 5:
            faulty.events.append({"seq": 6, "attempt": 1, "type": "succeeded"})
            faulty.jobs[job.id]["state"] = "succeeded"
    assert seen == [1, 2, 3, 4, 5, 6]


def test_follow_survives_a_broken_connection(client, faulty, fault):
    job = client.create_job(REQUEST)
    faulty.jobs[job.id]["state"] = "succeeded"
    faulty.events = [{"seq": n, "attempt": 1, "type": "epoch"} for n in range(1, 6)]
    faulty.faults["GET"].extend([None, fault(lose_answer=True), fault(status=502), None, fault(lose_answer=True)])
    assert [event.seq for event in client.follow(job.id, after=1)] == [2, 3, 4, 5]


def test_problem_says_type_status_fields_and_a_sentence(client):
    with pytest.raises(ProblemError) as caught:
        client.delete_upload("upl_x")
    problem = caught.value
    assert (problem.type, problem.status, problem.title) == ("upload-in-use", 409, "upload-in-use")
    assert [(e.field, e.message) for e in problem.errors] == [("id", "job_x uses it")]
    assert str(problem) == "Live jobs use it.\n  id: job_x uses it"


def test_temporary_refusal_ends_as_the_problem_after_bounded_tries(client, faulty, fault):
    faulty.faults["GET"].extend(fault(status=503, headers={"Retry-After": "0"}) for _ in range(10))
    with pytest.raises(ProblemError) as caught:
        client.job("job_x")
    assert caught.value.status == 503
    assert faulty.count("GET", "job_x") == 4


def test_missing_job_is_not_asked_for_again(client, faulty):
    with pytest.raises(ProblemError, match="There is no job job_x"):
        client.job("job_x")
    assert faulty.count("GET", "job_x") == 1


def test_failed_inspection_is_raised_with_its_reason(client, faulty, tmp_path):
    path = tmp_path / "t.pt"
    path.write_bytes(b"no network")
    upload = client.upload(path, "teacher")
    assert client.wait_inspection(upload.id).inspection_state == "done"
    error = {"type": "bad-teacher", "detail": "There are no tensors in it.", "new": 1}
    faulty.uploads[upload.id] |= {"inspection_state": "failed", "inspection_error": error}
    with pytest.raises(InspectionFailed, match=r"t\.pt can't be used as a teacher: There are no tensors in it"):
        client.wait_inspection(upload.id)


def test_waits_end_by_their_timeout(client):
    job = client.create_job(REQUEST)
    with pytest.raises(WaitTimeout, match=job.id):
        client.wait_job(job.id, timeout=0.3)


@pytest.mark.parametrize(("wait", "asked"), [(None, None), (0, None), (0.2, "1"), (2.6, "3"), (30, "30"), (600, "30")])
def test_waits_are_whole_seconds_that_the_service_takes(client, faulty, wait, asked):
    job = client.create_job(REQUEST)
    client.job(job.id, wait=wait)
    query = parse_qs(urlsplit(faulty.requests[-1][1]).query)
    assert query.get("wait", [None]) == [asked]


def test_log_is_the_newest_attempts_or_the_one_asked_for(client, faulty):
    job = client.create_job(REQUEST)
    faulty.logs = ["the first", "the last"]
    assert "the last" in client.log(job.id)
    assert "the first" in client.log(job.id, attempt=1)


def test_key_and_url_come_from_the_environment(client, faulty, monkeypatch):
    monkeypatch.setenv("LIT_URL", client.base_url + "/")
    monkeypatch.setenv("LIT_API_KEY", "lit_secret")
    with Client() as other:
        list(other.jobs())
    assert faulty.requests[-1][2]["Authorization"] == "Bearer lit_secret"


def test_proxy_of_the_environment_does_not_catch_loopback(client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(client.base_url) as other:
        assert list(other.jobs()) == []


def test_nobody_listening_is_said_at_once_with_the_remedy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        with Client(url) as client, pytest.raises(ServiceUnreachable, match=r"litc serve.*LIT_URL"):
            client.job("job_x")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://example.org", "http://[::"])
def test_unusable_addresses_are_named(url):
    with pytest.raises(LitError, match="is not an address"), Client(url) as client:
        client.job("job_x")


def test_answer_of_something_else_is_no_crash(client, faulty):
    faulty.jobs["job_x"] = {"hello": "I am a router"}
    faulty.jobs["job_x"]["state"] = "queued"
    with pytest.raises(UnexpectedAnswer, match="not as a LIT service does: id"):
        client.job("job_x")


def test_import_needs_no_torch_and_no_service():
    code = (
        "import sys, lit_client, lit_client.command\n"
        "assert not {'torch', 'numpy', 'fastapi', 'sqlalchemy', 'celery'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
