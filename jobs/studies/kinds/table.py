"""The table of a study, as an object and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.studies.kinds.trials import KeyT, Kind, Row, Trial, Trials
from lit_spec import Split
from lit_spec.answers.studies import StudyTable, TeacherRow


def make_table(kind: Kind[KeyT], trials: Trials[KeyT]) -> StudyTable:
    """The table so far. A row for each arm, configuration or depth, whether it has trials or not."""
    reference = next((found for trial in trials.values() if (found := _reference(trial)) is not None), None)
    columns = _columns(kind.columns)
    rows = [row.model_dump(mode="json") for row in kind.table(trials)]
    return StudyTable(
        validation_metric=reference and reference.validation_metric,
        test_metric=reference and reference.test_metric,
        teacher=reference and reference.teacher,
        columns=columns,
        rows=[{name: row[name] for name in columns} for row in rows],
    )


def as_csv(table: StudyTable) -> str:
    """RFC 4180, with a header line; null is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(table.columns)
    writer.writerows([_cell(row[name]) for name in table.columns] for row in table.rows)
    return text.getvalue()


@dataclass(frozen=True)
class _Reference:
    validation_metric: str
    test_metric: str | None
    teacher: TeacherRow


def _reference(trial: Trial) -> _Reference | None:
    """What a trial tells of the teacher and the metrics."""
    if (plan := trial.plan) is not None:
        teacher = plan.teacher
        validation = teacher.scores.score(plan.metric, Split.VALIDATION)
        row = TeacherRow(validation=validation, test=None, parameters=teacher.parameters, latency_ms=teacher.latency_ms)
        return _Reference(plan.metric, None, row)
    if (result := trial.result) is None:
        return None
    row = TeacherRow(
        validation=result.teacher_validation,
        test=result.teacher_test,
        parameters=result.teacher_parameters,
        latency_ms=result.teacher_latency_ms,
    )
    return _Reference(result.validation_metric, result.test_metric, row)


def _columns(row: type[Row]) -> Sequence[str]:
    """What is particular to the kind comes first."""
    models = [model for model in row.__mro__ if issubclass(model, Row)]
    inherited = [set(model.model_fields) for model in models[1:]] + [set()]
    return [
        name for model, known in zip(models, inherited, strict=True) for name in model.model_fields if name not in known
    ]


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
