"""The table of a study, as an object and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from jobs.studies.plans.trials import KeyT, Kind, Row, Trials
from lit_spec.answers.studies import StudyTable, TeacherRow


def make_table(kind: Kind[KeyT], trials: Trials[KeyT]) -> StudyTable:
    """The table so far. A row for each arm, configuration or depth, whether it has trials or not."""
    result = next((trial.result for trial in trials.values() if trial.result is not None), None)
    columns = _columns(kind.columns)
    rows = [row.model_dump(mode="json") for row in kind.table(trials)]
    return StudyTable(
        validation_metric=result.validation_metric if result else None,
        test_metric=result.test_metric if result else None,
        teacher=TeacherRow(
            validation=result.teacher_validation,
            test=result.teacher_test,
            parameters=result.teacher_parameters,
            latency_ms=result.teacher_latency_ms,
        )
        if result
        else None,
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


def _columns(row: type[Row]) -> Sequence[str]:
    """What is particular to the kind comes first."""
    own = [name for name in row.model_fields if name not in Row.model_fields]
    return [*own, *Row.model_fields]


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
