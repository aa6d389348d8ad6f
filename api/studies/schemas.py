"""What the API answers about studies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from api.jobs.schemas import Out
from jobs.database.models import Study
from jobs.studies.plans.table import Table
from jobs.studies.plans.trials import StudyError
from jobs.studies.status import Standing
from jobs.studies.trial_rows import Progress
from lit_spec.requests.study import StudyKind
from lit_spec.states import StudyState


class StudyProgressOut(Out):
    planned: int
    """Trials at the most; stopping early and what was found out may make them fewer."""
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    stopped: int
    """By the study itself, as hopeless or no longer needed."""


class StudyLinks(Out):
    self: str
    table: str
    jobs: str


class StudyOut(Out):
    id: str
    name: str | None
    tags: list[str]
    kind: StudyKind
    state: StudyState
    request: dict[str, Any]
    """As it came."""
    spec: dict[str, Any]
    """With every grid written out."""
    cancel_requested: bool
    round: int
    """1, and one more with each time that the study was resumed."""
    progress: StudyProgressOut
    choice: dict[str, Any] | None
    """What was found out, as {"tau": 6.0, "alpha": 0.95, "beta": 0.75}; null before the end."""
    best_job: str | None
    """The trial of the chosen point that is best on the validation split; while it runs, of what is best so far."""
    next: list[dict[str, Any]]
    """The trials that will be made next, ten at most; empty in lists."""
    table: Table | None
    """The table so far; null in lists."""
    error: StudyError | None
    created_at: datetime
    finished_at: datetime | None
    links: StudyLinks


def show_study(study: Study, progress: Progress | None, standing: Standing | None = None) -> StudyOut:
    path = f"/v1/studies/{study.id}"
    result = study.result or {"choice": None, "best_job": None}
    progress = progress or Progress()
    return StudyOut(
        id=study.id,
        name=study.name,
        tags=study.tags,
        kind=StudyKind(study.kind),
        state=StudyState(study.state),
        request=study.request,
        spec=study.spec["request"],
        cancel_requested=study.cancel_requested_at is not None,
        round=study.round,
        progress=StudyProgressOut(planned=study.planned, **vars(progress)),
        choice=standing.choice if standing else result["choice"],
        best_job=standing.best_job if standing else result["best_job"],
        next=list(standing.next) if standing else [],
        table=standing.table if standing else None,
        error=study.error and StudyError.model_validate(study.error),
        created_at=study.created_at,
        finished_at=study.finished_at,
        links=StudyLinks(self=path, table=f"{path}/table", jobs=f"/v1/jobs?study={study.id}"),
    )
