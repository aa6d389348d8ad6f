"""Requests for jobs and studies: refused with the fields that are to blame, before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from jobs.database.models import Job, Study
from jobs.errors import RequestRefused
from jobs.ledger import uploads
from jobs.ledger.requests import (
    Inspections,
    create_job,
    find_inspection,
    find_uploads,
    parse,
    request_inspection,
    specify,
    upload_ids,
)
from jobs.studies.requests import create_study, field_of_job, renaming, specify_study
from lit_spec import ErrorType, JobError, JobRequest
from lit_spec.requests.study import CompareRequest
from tests.worker.bench import INSPECTION, OWNER, Bench

INSPECTIONS = Inspections(INSPECTION)


def body(teacher: str, **changes: Any) -> dict[str, Any]:
    return {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 14}, **changes}


def read(teacher: str, **changes: Any) -> JobRequest:
    return JobRequest.model_validate(body(teacher, **changes))


def fields(refused: pytest.ExceptionInfo[RequestRefused]) -> tuple[str, list[str]]:
    return refused.value.type, [wrong.field for wrong in refused.value.mistakes]


def uninspected(bench: Bench, *, complete: bool = True) -> str:
    with bench.database.session() as session:
        upload = uploads.create(session, OWNER, "teacher", "teacher.pt", 9, None)
        if complete:
            uploads.complete(session, upload.id, upload.writer, upload.id)
        return upload.id


def test_a_refusal_names_every_wrong_field() -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(JobRequest, body("upl_x", alpha=2, tau="hot"))
    assert refused.value.type == "invalid-request"
    assert {wrong.field for wrong in refused.value.mistakes} == {"alpha", "tau"}
    assert "alpha: " in refused.value.detail
    with pytest.raises(RequestRefused) as refused, renaming(field_of_job):
        parse(JobRequest, body("upl_x", alpha=2))
    assert fields(refused) == ("invalid-request", ["job.alpha"])
    assert refused.value.detail.startswith("job.alpha: ")


def test_uploads_are_named_once_and_networks_apart_from_data_sets() -> None:
    request = read("upl_a", dataset={"upload": "upl_b"}, discriminator="upl_a", adversarial={})
    assert upload_ids(request) == ["upl_b", "upl_a"]


def test_uploads_that_can_not_be_used_are_refused(bench: Bench) -> None:
    teacher, dataset = bench.teacher(), bench.dataset()
    wrong: list[tuple[JobRequest, str, str]] = [
        (read("upl_none"), "invalid-request", "teacher"),
        (read(dataset), "invalid-request", "teacher"),
        (read(teacher, dataset={"upload": teacher}), "invalid-request", "dataset.upload"),
        (read(uninspected(bench, complete=False)), "upload-unfinished", "teacher"),
    ]
    for request, type, field in wrong:
        with bench.database.session() as session, pytest.raises(RequestRefused) as refused:
            find_uploads(session, OWNER, request)
        assert fields(refused) == (type, [field])
    with bench.database.session() as session, pytest.raises(RequestRefused):
        find_uploads(session, "another", read(teacher))


def test_an_inspection_is_none_until_it_has_finished(bench: Bench) -> None:
    teacher = uninspected(bench)
    with bench.database.session() as session:
        assert find_inspection(session, OWNER, read(teacher), "teacher") is None
        uploads.finish_inspection(session, teacher, inspection=INSPECTION, error=None)
        assert find_inspection(session, OWNER, read(teacher), "teacher") == INSPECTION


def test_a_failed_inspection_refuses_the_request(bench: Bench) -> None:
    teacher = uninspected(bench)
    error = JobError(type=ErrorType.BAD_TEACHER, detail="no network that we know", field="architecture")
    with bench.database.session() as session:
        uploads.finish_inspection(session, teacher, inspection=None, error=error)
    for field, blamed in (("teacher", "architecture"), ("discriminator", "discriminator")):
        request = read(teacher, discriminator=teacher, adversarial={})
        with bench.database.session() as session, pytest.raises(RequestRefused) as refused:
            find_inspection(session, OWNER, request, field)
        assert fields(refused) == ("bad-teacher", [blamed])


def test_an_architecture_that_another_request_changed_refuses_the_request(bench: Bench) -> None:
    teacher = bench.teacher()
    mine, other = ({"library": "torchvision", "name": name} for name in ("resnet18", "resnet34"))
    request = read(teacher, architecture=mine)
    with bench.database.session() as session:
        request_inspection(session, OWNER, read(teacher))
        assert find_inspection(session, OWNER, read(teacher), "teacher") == INSPECTION
        request_inspection(session, OWNER, request)
        assert find_inspection(session, OWNER, request, "teacher") is None
        request_inspection(session, OWNER, read(teacher, architecture=other))
        wanted = uploads.get(session, OWNER, teacher).architecture
        uploads.finish_inspection(session, teacher, inspection=INSPECTION, error=None, architecture=wanted)
    with bench.database.session() as session, pytest.raises(RequestRefused) as refused:
        find_inspection(session, OWNER, request, "teacher")
    assert fields(refused) == ("inspected-otherwise", ["architecture"])


def test_weights_that_another_request_changed_refuse_the_request(bench: Bench) -> None:
    teacher = bench.teacher()
    request = read(teacher, teacher_weights="ema")
    with bench.database.session() as session:
        request_inspection(session, OWNER, request)
        assert find_inspection(session, OWNER, request, "teacher") is None
        request_inspection(session, OWNER, read(teacher, teacher_weights="raw"))
        # The first request's result, which comes too late, is dropped.
        uploads.finish_inspection(session, teacher, inspection=INSPECTION, error=None, teacher_weights="ema")
        assert find_inspection(session, OWNER, request, "teacher") is None
        uploads.finish_inspection(session, teacher, inspection=INSPECTION, error=None, teacher_weights="raw")
        assert find_inspection(session, OWNER, read(teacher), "teacher") == INSPECTION
    with bench.database.session() as session, pytest.raises(RequestRefused) as refused:
        find_inspection(session, OWNER, request, "teacher")
    assert fields(refused) == ("inspected-otherwise", ["teacher_weights"])


def test_a_job_is_made_of_a_request_and_its_inspections(bench: Bench) -> None:
    request = read(bench.teacher())
    with bench.database.session() as session:
        job = create_job(session, OWNER, request, INSPECTIONS, None)
    assert bench.row(job.id).spec == specify(request, INSPECTIONS).model_dump(mode="json")


def test_nothing_is_stored_for_an_upload_that_was_deleted_meanwhile(bench: Bench) -> None:
    request = read(bench.teacher(), dataset={"upload": "upl_deleted"})
    with bench.database.session() as session, pytest.raises(RequestRefused) as refused:
        create_job(session, OWNER, request, INSPECTIONS, None)
    assert fields(refused) == ("invalid-request", ["dataset.upload"])
    study = {"kind": "compare", "methods": ["lit", "kd"], "job": body("upl_deleted")}
    spec = specify_study(CompareRequest.model_validate(study), INSPECTIONS)
    with bench.database.session() as session, pytest.raises(RequestRefused) as refused:
        create_study(session, OWNER, study, spec, None)
    assert fields(refused) == ("invalid-request", ["job.teacher"])
    with bench.database.session() as session:
        for model in (Job, Study):
            assert session.execute(select(func.count()).select_from(model)).scalar_one() == 0


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"methods": ["lit", {"name": "hot", "tau": -1}]}, "methods.1.tau"),
        ({"job": body("upl_x", student={"depth": 15})}, "job.student.depth"),
        ({"methods": [{"name": f"arm {n}"} for n in range(11)], "seeds": list(range(1000))}, "seeds"),
    ],
)
def test_a_study_with_a_wrong_trial_is_refused(changes: dict[str, Any], blamed: str) -> None:
    study = {"kind": "compare", "methods": ["lit", "kd"], "job": body("upl_x"), **changes}
    with pytest.raises(RequestRefused) as refused:
        specify_study(CompareRequest.model_validate(study), INSPECTIONS)
    assert fields(refused) == ("invalid-request", [blamed])
