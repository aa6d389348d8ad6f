"""Rows of the ledger as the API shows them."""

from __future__ import annotations

from jobs.database.models import Study as StudyRow
from jobs.studies.status import StudyStatus
from jobs.studies.trial_rows import Progress
from lit_spec.answers.studies import Study, StudyLinks, StudyProgress
from lit_spec.base import READING_ANSWER
from lit_spec.errors import StudyError
from lit_spec.requests.study import StudyKind
from lit_spec.states import StudyState


def show_study(study: StudyRow, progress: Progress | None, status: StudyStatus | None = None) -> Study:
    path = f"/v1/studies/{study.id}"
    result = study.result or {"choice": None, "best_job": None}
    progress = progress or Progress()
    return Study(
        id=study.id,
        name=study.name,
        tags=study.tags,
        kind=StudyKind(study.kind),
        state=StudyState(study.state),
        request=study.request,
        spec=study.spec["request"],
        cancel_requested=study.cancel_requested_at is not None,
        round=study.round,
        progress=StudyProgress(planned=study.planned, **vars(progress)),
        choice=status.choice if status else result["choice"],
        best_job=status.best_job if status else result["best_job"],
        next=list(status.next) if status else [],
        table=status.table if status else None,
        error=study.error and StudyError.model_validate(study.error, context=READING_ANSWER),
        created_at=study.created_at,
        finished_at=study.finished_at,
        links=StudyLinks(self=path, table=f"{path}/table", jobs=f"/v1/jobs?study={study.id}"),
    )
