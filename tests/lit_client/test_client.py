"""Requests, answers and errors of `Client`, against the real application."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.ledger import attempts, keys, uploads
from jobs.ledger.attempts import Event, Metric
from lit_client import (
    Client,
    InspectedOtherwise,
    InspectionFailed,
    InvalidKey,
    LitError,
    ProblemError,
    ServiceUnreachable,
    UnexpectedAnswer,
    WaitTimeout,
)
from lit_client.files import file_sha256
from lit_client.synchronous import connection as connection_module
from lit_client.synchronous import pages as pages_module
from lit_spec import ErrorType, JobError, JobRequest, TeacherWeights
from tests.jobs.study_bench import take
from tests.lit_client.command import litc
from tests.lit_client.faults import Fault, FaultyTransport, busy, lost_answer
from tests.lit_client.scripted_worker import DIVERGED, RESULT, ScriptedWorker, store
from tests.worker.bench import OWNER, Bench


@pytest.fixture
def request_body(bench: Bench) -> dict[str, Any]:
    return {"teacher": bench.teacher(), "dataset": {"builtin": "digits"}, "student": {"depth": 14}, "device": "cpu"}


def epochs(count: int) -> list[Event]:
    return [Event("epoch", {"epoch": number}) for number in range(1, count + 1)]


@pytest.mark.parametrize("lost", [httpx.ReadError("reset"), httpx.RemoteProtocolError("gone"), httpx.ReadTimeout("")])
def test_a_repeated_post_makes_one_job(
    client: Client, transport: FaultyTransport, request_body: dict[str, Any], lost: httpx.TransportError
) -> None:
    transport.faults["POST"].extend([Fault(lost=lost), Fault(lost=lost)])
    job = client.create_job(request_body)
    assert transport.count("POST", "/v1/jobs") == 3
    assert [listed.id for listed in client.jobs()] == [job.id]


def test_who_has_reached_a_quota_is_told_at_once(
    client: Client, transport: FaultyTransport, request_body: dict[str, Any]
) -> None:
    client.administration.set_quotas(OWNER, {"jobs_queued": 0})
    with pytest.raises(ProblemError, match="0 queued jobs, and 0 are allowed") as caught:
        client.create_job(request_body)
    assert (caught.value.type, caught.value.status) == ("quota-exceeded", 429)
    assert transport.count("POST", "/v1/jobs") == 1
    client.administration.set_quotas(OWNER, {})
    assert client.create_job(request_body).state == "queued"


def test_two_calls_make_two_jobs_unless_the_key_is_given(client: Client, request_body: dict[str, Any]) -> None:
    assert client.create_job(request_body).id != client.create_job(request_body).id
    first, second = (client.create_job(request_body, idempotency_key="k").id for _ in range(2))
    assert first == second
    assert len(list(client.jobs())) == 3


@pytest.mark.parametrize("key", ["", "\xe9", "a\n"])
def test_a_key_that_no_header_can_have_is_refused(client: Client, request_body: dict[str, Any], key: str) -> None:
    for post in (client.create_job, client.create_study):
        with pytest.raises(ValueError, match="idempotency_key"):
            post(request_body, idempotency_key=key)
    assert list(client.jobs()) == []


def test_a_request_model_sends_only_what_was_set(client: Client, request_body: dict[str, Any]) -> None:
    job = client.create_job(JobRequest.model_validate(request_body | {"alpha": 0.25}))
    assert job.request == request_body | {"alpha": 0.25}
    assert job.spec["alpha"] == 0.25
    assert job.epochs_of("lit") == job.spec["schedule"]["lit"]["epochs"] > 0


def test_an_etag_answers_none_while_nothing_has_changed(client: Client, bench: Bench) -> None:
    job = client.job(bench.job())
    assert job.etag
    assert client.job(job.id, etag=job.etag) is None
    take(bench)
    changed = client.job(job.id, etag=job.etag)
    assert changed is not None
    assert changed.state == "running"
    assert changed.worker is not None
    assert (changed.worker.id, changed.worker.device) == ("w", "cpu")


def test_lists_go_over_pages_up_to_the_limit(
    client: Client, transport: FaultyTransport, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "PAGE_ITEMS", 2)
    teacher = bench.teacher()
    newest_first = [bench.job(teacher=teacher) for _ in range(5)][::-1]
    assert [job.id for job in client.jobs()] == newest_first
    assert transport.count("GET", "/v1/jobs?") == 3
    assert [job.id for job in client.jobs(limit=3)] == newest_first[:3]


def test_following_gives_each_event_once_and_ends_with_the_job(client: Client, bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)
    with bench.database.session() as session:
        attempts.record(session, claim, epochs(3), [], None, None)
    followed: list[tuple[int, str]] = []
    for event in client.follow(job):
        followed.append((event.seq, event.type))
        if event.data.get("epoch") == 3:
            with bench.database.session() as session:
                attempts.succeed(session, claim, RESULT, [])
    assert [seq for seq, _ in followed] == list(range(1, len(followed) + 1))
    assert [name for _, name in followed][-4:] == ["epoch", "epoch", "epoch", "succeeded"]


def test_following_survives_a_broken_connection(client: Client, transport: FaultyTransport, bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)
    with bench.database.session() as session:
        attempts.record(session, claim, epochs(3), [], None, None)
        attempts.succeed(session, claim, RESULT, [])
    every = [event.seq for event in client.follow(job)]
    transport.faults["GET"].extend([None, lost_answer(), busy(502), None, lost_answer()])
    assert [event.seq for event in client.follow(job, after=1)] == every[1:]
    assert not transport.faults["GET"]


def test_an_answer_that_is_cut_off_is_asked_for_again(client: Client, transport: FaultyTransport, bench: Bench) -> None:
    job = bench.job()
    transport.faults["GET"].append(Fault(cut_answer_after=20))
    assert client.job(job).id == job
    assert transport.count("GET", job) == 2


def test_a_long_poll_ends_with_the_job(client: Client, worker: ScriptedWorker, request_body: dict[str, Any]) -> None:
    began = time.monotonic()
    job = client.wait_job(client.create_job(request_body).id, timeout=25)
    assert (job.state, job.finished, job.result) == ("succeeded", True, RESULT)
    assert time.monotonic() - began < 10


def test_a_problem_says_type_status_fields_and_a_sentence(client: Client, bench: Bench) -> None:
    teacher = bench.teacher()
    job = bench.job(teacher=teacher)
    with pytest.raises(ProblemError) as caught:
        client.delete_upload(teacher)
    problem = caught.value
    assert (problem.type, problem.status, problem.errors) == ("upload-in-use", 409, [])
    assert str(problem) == f"Upload {teacher} is needed by {job}: cancel that first, or wait until it has finished."
    with pytest.raises(ProblemError) as caught:
        client.create_job({"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 15}})
    problem = caught.value
    assert (problem.status, [error.field for error in problem.errors]) == (422, ["student.depth"])
    assert problem.errors[0].message in str(problem)


def test_a_temporary_refusal_ends_as_the_problem_after_bounded_tries(
    client: Client, transport: FaultyTransport
) -> None:
    transport.faults["GET"].extend(busy(503, retry_after="0") for _ in range(10))
    with pytest.raises(ProblemError) as caught:
        client.job("job_x")
    assert caught.value.status == 503
    assert transport.count("GET", "job_x") == 4


def test_pauses_grow_unless_the_service_says_how_long(
    client: Client, transport: FaultyTransport, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(connection_module.time, "sleep", pauses.append)
    transport.faults["GET"].extend([busy(503), busy(503, retry_after="7"), busy(429, retry_after="3600")])
    client.job(bench.job())
    assert pauses == [0.01, 7.0, connection_module.LONGEST_RETRY_AFTER]


def test_a_refused_connection_is_tried_again_once_the_service_has_answered(
    client: Client, transport: FaultyTransport, bench: Bench
) -> None:
    refused = Fault(refused=httpx.ConnectError("connection refused"))
    transport.faults["GET"].append(refused)
    with pytest.raises(ServiceUnreachable, match="No LIT service answers"):
        client.job("job_x")
    assert len(transport.requests) == 1
    job = bench.job()
    assert client.job(job).state == "queued"
    transport.faults["GET"].append(refused)
    assert client.job(job).state == "queued"


def test_a_missing_job_is_not_asked_for_again(client: Client, transport: FaultyTransport) -> None:
    with pytest.raises(ProblemError, match="job_x") as caught:
        client.job("job_x")
    assert (caught.value.type, caught.value.status) == ("not-found", 404)
    assert transport.count("GET", "job_x") == 1


def test_a_failed_inspection_is_raised_with_its_reason(client: Client, worker: ScriptedWorker, teacher: Path) -> None:
    upload = client.wait_inspection(client.upload(teacher, "teacher").id, timeout=20)
    assert (upload.inspection_state, upload.inspecting) == ("done", False)
    assert upload.inspection is not None
    assert upload.inspection.students[0].depth == 8

    other = teacher.with_name("t.pt")
    other.write_bytes(b"\x80\x02 no network")
    worker.inspection = JobError(type=ErrorType.BAD_TEACHER, detail="There are no tensors in it.")
    with pytest.raises(InspectionFailed, match=r"t\.pt can't be used as a teacher: There are no tensors") as caught:
        client.wait_inspection(client.upload(other, "teacher").id, timeout=20)
    assert caught.value.failure.type == "bad-teacher"

    data = teacher.with_name("photos.zip")
    data.write_bytes(b"PK no images")
    worker.dataset_inspection = JobError(type=ErrorType.BAD_DATASET, detail="It is damaged.")
    with pytest.raises(InspectionFailed, match=r"photos\.zip can't be used as a data set: It is damaged"):
        client.wait_inspection(client.upload(data, "dataset").id, timeout=20)


def test_whoever_is_overtaken_by_another_architecture_is_told(
    client: Client, worker: ScriptedWorker, teacher: Path
) -> None:
    resnet18, resnet34 = ({"library": "timm", "name": name} for name in ("resnet18", "resnet34"))
    upload = client.upload(teacher, "teacher", architecture=resnet18)
    inspected = client.wait_inspection(upload.id, architecture=resnet18, timeout=20)
    assert inspected.architecture is not None
    assert inspected.architecture.name == "resnet18"
    client.inspect_as(upload.id, resnet34)
    with pytest.raises(InspectedOtherwise, match="changed the architecture"):
        client.wait_inspection(upload.id, architecture=resnet18)
    assert client.inspect_as(upload.id, None).architecture is None


def test_the_weights_of_a_checkpoint_are_chosen_and_whoever_is_overtaken_is_told(
    client: Client, worker: ScriptedWorker, teacher: Path
) -> None:
    upload = client.upload(teacher, "teacher", teacher_weights="ema")
    inspected = client.wait_inspection(upload.id, teacher_weights="ema", timeout=20)
    assert inspected.teacher_weights == "ema"
    assert client.upload(teacher, "teacher", teacher_weights="ema").inspection_state == "done"
    client.inspect_with(upload.id, "raw")
    with pytest.raises(InspectedOtherwise, match="changed the teacher_weights"):
        client.wait_inspection(upload.id, teacher_weights="ema")
    assert client.inspect_with(upload.id, None).teacher_weights is None


def test_an_upload_that_is_continued_gets_the_weights_that_are_asked_for_now(
    client: Client, worker: ScriptedWorker, bench: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "t.pt"
    for begun, wanted in ((TeacherWeights.RAW, "ema"), (TeacherWeights.EMA, None)):
        file.write_bytes(b"\x80\x02" + begun.encode())
        named = (OWNER, "teacher", file.name, file.stat().st_size, file_sha256(file))
        with bench.database.session() as session:
            before = uploads.create(session, *named, teacher_weights=begun).id
        upload = client.upload(file, "teacher", teacher_weights=wanted)
        assert upload.id == before
        assert client.wait_inspection(upload.id, timeout=20).teacher_weights == wanted


def test_waits_end_by_their_timeout(client: Client, bench: Bench) -> None:
    job = bench.job()
    with pytest.raises(WaitTimeout, match=job):
        client.wait_job(job, timeout=0.3)


@pytest.mark.parametrize(("wait", "asked"), [(None, None), (0, None), (0.2, "1"), (2.6, "3"), (30, "30"), (600, "30")])
def test_waits_are_whole_seconds_that_the_service_takes(
    client: Client, transport: FaultyTransport, bench: Bench, wait: float | None, asked: str | None
) -> None:
    job = bench.job()
    bench.cancel(job)
    assert client.job(job, wait=wait).finished
    assert transport.requests[-1].url.params.get("wait") == asked


def test_metrics_and_logs_of_attempts(client: Client, bench: Bench) -> None:
    job = bench.job()
    for number, text in ((1, b"the first"), (2, b"the last")):
        claim = take(bench)
        bench.storage.put_bytes(f"jobs/{job}/{number}/trainer.log", text)
        with bench.database.session() as session:
            attempts.record(session, claim, [], [Metric("lit", number, "student_accuracy", 90.0)], None, None)
            attempts.release(session, claim)
    assert client.log(job) == "the last"
    assert client.log(job, attempt=1) == "the first"
    assert {(metric.phase, metric.epoch, metric.value) for metric in client.metrics(job, phase="lit")} >= {
        ("lit", 2, 90.0)
    }


def test_the_life_of_a_job(client: Client, bench: Bench, request_body: dict[str, Any]) -> None:
    job = client.create_job(request_body | {"name": "n", "tags": ["t"]})
    claim = take(bench)
    with bench.database.session() as session:
        attempts.fail(session, claim, DIVERGED)
    failed = client.job(job.id)
    assert str(failed.error) == "The loss is no number. [diverged]"
    again = client.rerun(job.id, {"seed": 5})
    assert again.request == failed.request | {"seed": 5}
    claim = take(bench)
    with bench.database.session() as session:
        attempts.succeed(session, claim, RESULT, [store(bench, claim, "report.json", b"{}")])
    (artifact,) = client.artifacts(again.id)
    assert (artifact.name, artifact.size, artifact.media_type) == ("report.json", 2, "application/json")
    with pytest.raises(ProblemError) as caught:
        client.cancel(again.id)
    assert caught.value.type == "job-finished"
    assert [listed.id for listed in client.jobs(state="failed", tag="t", name="n")] == [job.id]
    client.delete_job(again.id)
    assert [listed.id for listed in client.jobs()] == [job.id]


def test_the_networks_of_the_libraries(client: Client) -> None:
    listed = list(client.architectures(library="timm", search="resnet18", limit=3))
    assert "resnet18" in {item.name for item in listed}
    found = client.architecture("timm", "resnet18")
    assert found.sections
    assert found.students[-1].blocks == found.blocks


def test_key_and_url_come_from_the_environment(bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.database.session() as session:
        _, secret = keys.create(session, "mine")
    monkeypatch.setenv("LIT_URL", url + "/")
    monkeypatch.delenv("LIT_API_KEY", raising=False)
    with Client() as other, pytest.raises(ProblemError) as caught:
        list(other.jobs())
    assert caught.value.status == 401
    monkeypatch.setenv("LIT_API_KEY", secret)
    with Client() as other:
        assert list(other.jobs()) == []


@pytest.mark.parametrize("around", ["{}\n", "\t{} \r\n", " {}"])
def test_blanks_around_a_key_are_no_part_of_it(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    with bench.database.session() as session:
        _, secret = keys.create(session, "mine")
    monkeypatch.setenv("LIT_API_KEY", around.format(secret))
    with Client(url) as other:
        assert list(other.jobs()) == []


@pytest.mark.parametrize("character", ["\n", "\u200b", "\xe9", "\x7f", "\0"])
def test_a_key_that_is_none_is_not_shown(url: str, character: str) -> None:
    wrong = f"lit_sec{character}ret"
    with pytest.raises(InvalidKey, match="LIT_API_KEY") as refused:
        Client(url, wrong)
    assert "sec" not in str(refused.value)
    if "\0" not in wrong:
        command = litc(url, "jobs", LIT_API_KEY=wrong)
        assert (command.returncode, command.stdout) == (2, "")
        assert "LIT_API_KEY" in command.stderr
        assert "sec" not in command.stderr


@pytest.mark.parametrize("id", ["../uploads", "..", ".", "a b?limit=1", "a#b", "100%", "a%2Fb", "\xe9"])
def test_an_id_stays_one_part_of_the_path(client: Client, id: str) -> None:
    for ask in (client.job, client.study, client.get_upload, client.log, client.artifacts, client.delete_job):
        with pytest.raises(ProblemError) as refused:
            ask(id)
        assert (refused.value.type, refused.value.status) == ("not-found", 404)


def test_a_command_asks_for_no_other_thing(url: str) -> None:
    for id in ("../uploads", ".."):
        finished = litc(url, "job", id)
        assert finished.returncode != 0
        assert finished.stderr.startswith("Not found") or "there is no job" in finished.stderr.lower()


def test_a_proxy_of_the_environment_does_not_catch_loopback(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(url) as other:
        assert list(other.jobs()) == []


def test_nobody_listening_is_said_at_once_with_the_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        with Client(url) as client, pytest.raises(ServiceUnreachable, match=r"litc serve.*LIT_URL"):
            client.job("job_x")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://example.org", "http://[::"])
def test_unusable_addresses_are_named(url: str) -> None:
    with pytest.raises(LitError, match="is not the address"), Client(url) as client:
        client.job("job_x")


def test_an_answer_of_something_else_is_no_crash(client: Client, transport: FaultyTransport) -> None:
    router = {"hello": "I am a router", "state": "queued"}
    transport.faults["GET"].append(Fault(answer=httpx.Response(200, json=router)))
    with pytest.raises(UnexpectedAnswer, match="not as a LIT service does: id"):
        client.job("job_x")


def test_import_needs_no_torch_and_no_service() -> None:
    code = (
        "import sys, lit_client, lit_client.command\n"
        "assert not {'torch', 'numpy', 'fastapi', 'sqlalchemy', 'celery'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
