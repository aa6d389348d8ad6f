"""Rows of the ledger as the API shows them."""

from __future__ import annotations

from typing import Any

from jobs.database.models import Event as EventRow
from jobs.database.models import Job as JobRow
from jobs.database.models import TrackedRun
from jobs.ledger.metrics import Metric as EpochMetric
from jobs.ledger.owned_jobs import WaitingReason
from jobs.ledger.retention import job_expires_at
from jobs.storage.media_types import media_type
from jobs.tracking.runs import RunStage
from lit_spec import JobError
from lit_spec.answers.jobs import (
    Artifact,
    Event,
    Job,
    JobLinks,
    JobLive,
    JobProgress,
    JobTracking,
    JobWorker,
    Metric,
    MlflowRun,
    RegisteredVersion,
    Waiting,
)
from lit_spec.base import READING_ANSWER
from lit_spec.states import JobState


def show_job(
    job: JobRow,
    retention_days: float | None,
    waiting: WaitingReason | None = None,
    run: TrackedRun | None = None,
) -> Job:
    """`retention_days`: how long the files of finished jobs stay."""
    path = f"/v1/jobs/{job.id}"
    running_on = JobWorker(id=job.worker_id, device=job.worker_device) if job.worker_id and job.worker_device else None
    return Job(
        id=job.id,
        name=job.name,
        tags=job.tags,
        state=JobState(job.state),
        device=job.device,
        spec_version=job.spec_version,
        spec=job.spec,
        request=job.request,
        study_id=job.study_id,
        trial=job.trial,
        attempt=job.attempt,
        failures=job.failures,
        max_attempts=job.max_attempts,
        worker=running_on,
        cancel_requested=job.cancel_requested_at is not None,
        progress=_show_progress(job),
        estimated_finish=job.estimated_finish,
        waiting=waiting and Waiting.model_validate(waiting),
        accepted=(job.result or {}).get("accepted"),
        result=job.result,
        error=job.error and JobError.model_validate(job.error, context=READING_ANSWER),
        tracking=run and JobTracking(mlflow=show_run(run)),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        kept=job.kept,
        expires_at=job_expires_at(job, retention_days),
        artifacts_removed_at=job.files_removed_at,
        links=JobLinks(
            self=path,
            events=f"{path}/events",
            metrics=f"{path}/metrics",
            log=f"{path}/log",
            artifacts=f"{path}/artifacts",
        ),
    )


def show_live(job: JobRow) -> JobLive:
    return JobLive(
        state=JobState(job.state),
        progress=_show_progress(job),
        estimated_finish=job.estimated_finish,
        version=job.version,
    )


def _show_progress(job: JobRow) -> JobProgress | None:
    return None if job.progress is None else JobProgress.model_validate(job.progress)


def show_run(run: TrackedRun) -> MlflowRun:
    return MlflowRun(
        tracking_uri=run.tracking_uri,
        run_id=run.run_id,
        experiment_id=run.experiment_id,
        url=run.run_id and f"{run.tracking_uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}",
        complete=run.stage == RunStage.COMPLETE,
        registered=run.registered and RegisteredVersion.model_validate(run.registered),
        error=run.error,
    )


def show_event(event: EventRow) -> Event:
    return Event.model_validate(event)


def show_metric(metric: EpochMetric) -> Metric:
    return Metric.model_validate(metric)


def show_artifact(job_id: str, artifact: dict[str, Any]) -> Artifact:
    return Artifact(
        name=artifact["name"],
        size=artifact["size"],
        sha256=artifact["sha256"],
        media_type=media_type(artifact["name"]),
        href=f"/v1/jobs/{job_id}/artifacts/{artifact['name']}",
    )
