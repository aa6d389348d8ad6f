"""What a study's owner is shown about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.models import Study
from jobs.ledger import workers
from jobs.ledger.stored_specs import Unreadable
from jobs.studies.kinds.table import make_table
from jobs.studies.stored_specs import read_study
from jobs.studies.trial_rows import read_trials
from lit_spec.answers.studies import StudyTable

NEXT_SHOWN = 10
_EMPTY_TABLE = StudyTable(validation_metric=None, test_metric=None, teacher=None, columns=[], rows=[])


@dataclass(frozen=True)
class StudyStatus:
    choice: dict[str, Any] | None
    """The study's answer, once it has succeeded."""
    best_job: str | None
    """The best trial of the chosen configuration; while the study runs, of the one that would be chosen now."""
    next: Sequence[dict[str, Any]]
    """The first few of the trials that are made next."""
    table: StudyTable


def read_status(session: Session, study: Study) -> StudyStatus:
    """From the trials while the study runs. Afterwards as it was stored when the study finished.

    The table is empty if this version can't read the study, for example because a newer one has created it.
    """
    if study.result is not None:
        table = StudyTable.model_validate(study.result["table"])
        return StudyStatus(study.result["choice"], study.result["best_job"], [], table)
    try:
        _, kind = read_study(study)
    except Unreadable:
        return StudyStatus(None, None, [], _EMPTY_TABLE)
    trials = read_trials(session, study, kind)
    new = [] if study.cancel_requested_at else kind.next_steps(trials, max(len(workers.live(session)), 1)).new
    table = make_table(kind, trials)
    chosen = [row["job_id"] for row in table.rows if row["chosen"]]
    return StudyStatus(None, chosen[-1] if chosen else None, [key.stored() for key in new[:NEXT_SHOWN]], table)
