"""Studies in a real ledger, and trials that reach what a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from jobs.database.models import Job, Study
from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact, Claim, Metric
from jobs.studies import studies
from jobs.studies.advance import advance
from lit_spec import SPEC_VERSION, ErrorType, JobError
from tests.jobs.study_specs import make_spec
from tests.worker.bench import OWNER, Bench

DIVERGED = JobError(type=ErrorType.DIVERGED, detail="the loss is not finite")


def report(validation: float, test: float | None = None, teacher: float = 98.0) -> dict[str, Any]:
    """A job's result, as far as a study reads it."""

    def network(val: float, test: float, parameters: int, latency: float) -> dict[str, Any]:
        return {
            "accuracy": {"val": val, "test": test},
            "agreement": {"val": val, "test": test},
            "parameters": parameters,
            "latency": {"batch_1": {"p50_ms": latency, "p95_ms": latency}},
        }

    return {
        "teacher": network(teacher, teacher, 3000, 3.0),
        "student": network(validation, validation if test is None else test, 1000, 1.0),
        "selected": {
            "phase": "lit",
            "epoch": 1,
            "by": "accuracy on the validation split",
            "metric": "accuracy",
            "value": validation,
        },
        "seconds": 2.5,
        "accepted": None,
    }


def make_study(bench: Bench, kind: str, job: dict[str, Any] | None = None, **fields: Any) -> str:
    teacher = fields.pop("teacher", None) or bench.teacher()
    key = fields.pop("key", None)
    spec = make_spec(kind, {"teacher": teacher, "device": "cpu", **(job or {})}, **fields)
    with bench.database.session() as session:
        study, _ = studies.create(session, OWNER, {"kind": kind, **fields}, spec, idempotency=key)
        return study.id


def study_row(bench: Bench, study_id: str) -> Study:
    with bench.database.session() as session:
        return studies.get(session, OWNER, study_id)


def trials(bench: Bench, study_id: str) -> list[Job]:
    """All its jobs, in the order in which they were made."""
    with bench.database.session() as session:
        query = select(Job).where(Job.study_id == study_id).order_by(Job.created_at, Job.id)
        return list(session.scalars(query))


def states(bench: Bench, study_id: str) -> list[str]:
    return [job.state for job in trials(bench, study_id)]


def take(bench: Bench, worker: str = "w") -> Claim:
    with bench.database.session() as session:
        claim = attempts.claim(session, worker, ["cpu"], [SPEC_VERSION], 60)
    assert claim is not None
    return claim


def succeed(bench: Bench, claim: Claim, validation: float) -> None:
    """Ends the job, and does no more: as a worker that dies right after it."""
    succeed_with(bench, claim, report(validation))


def succeed_with(bench: Bench, claim: Claim, result: dict[str, Any]) -> None:
    with bench.database.session() as session:
        attempts.succeed(session, claim, result, [Artifact("a", f"jobs/{claim.job_id}/1/a", 1, "00")])


def fail(bench: Bench, claim: Claim) -> None:
    with bench.database.session() as session:
        attempts.fail(session, claim, DIVERGED)


def tell(bench: Bench, claim: Claim, *accuracies: float) -> None:
    """Epochs of the first phase."""
    metrics = [Metric("lit", epoch, "student_accuracy", value) for epoch, value in enumerate(accuracies, start=1)]
    with bench.database.session() as session:
        attempts.record(session, claim, [], metrics, None, None)


def look(bench: Bench, study_id: str) -> list[str]:
    with bench.database.session() as session:
        return advance(session, study_id)


def work(bench: Bench, study_id: str, reached: Callable[[dict[str, Any]], float]) -> None:
    """One worker that runs trials until none is left, each reaching what its key says."""
    while any(state == "queued" for state in states(bench, study_id)):
        claim = take(bench)
        key = bench.row(claim.job_id).trial
        assert key is not None
        succeed(bench, claim, reached(key))
        look(bench, study_id)
