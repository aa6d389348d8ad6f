"""The report's model and the committed schema of report.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.table import Table

from lit_client.command.display import RESULT_ROWS, exports_table, operations_table
from lit_spec import Export
from lit_spec.trainer.report import BySplit, EpochReport, ExportReport, NetworkSummary, OperationReport, Ratios, schema

SCHEMA = Path(__file__).parents[2] / "docs/report.schema.json"


def test_the_committed_schema_is_the_models() -> None:
    assert SCHEMA.read_text() == schema(), "write it with `python -m lit_spec.trainer.report > docs/report.schema.json`"


def test_the_client_shows_fields_that_the_report_has() -> None:
    for _, path, _, ratio in RESULT_ROWS:
        assert path[0] in NetworkSummary.model_fields
        assert ratio is None or ratio in Ratios.model_fields


def cells(table: Table) -> list[str]:
    return [str(cell) for column in table.columns for cell in column.cells]


def test_the_clients_tables_show_what_the_report_says_of_files() -> None:
    both = BySplit(val=91.0, test=92.0)
    operation = OperationReport(
        step="prune:0.5",
        file="model.prune-0.5.safetensors",
        file_size=4000,
        parameters=1000,
        parameters_ratio=3.0,
        accuracy=both,
        agreement=BySplit(val=93.0, test=94.0),
        accuracy_drop=1.0,
        before_fine_tuning=None,
        epoch=2,
        error=None,
    )
    assert cells(operations_table([operation.as_json()])) == ["prune:0.5", "92.00", "94.00", "1,000", "3.00", "4,000"]
    export = ExportReport(
        kind=Export.ONNX,
        file="model.onnx",
        size=10,
        max_abs_difference=2e-6,
        top1_agreement=99.5,
        accuracy=90.25,
        samples=4,
        error=None,
    )
    assert cells(exports_table([export.as_json()])) == ["onnx", "model.onnx", "2e-06", "99.50", "90.25", ""]


def test_only_what_was_measured_is_written() -> None:
    entry = ExportReport(kind=Export.HUGGING_FACE, file="bundle.zip", reads="timm", error=None)
    assert entry.as_json() == {"kind": "hugging_face", "file": "bundle.zip", "reads": "timm", "error": None}


def test_an_epoch_has_its_metrics_beside_its_place() -> None:
    written = {"phase": "lit", "epoch": 1, "loss": 0.5, "student_accuracy": 90.0}
    epoch = EpochReport.model_validate(written)
    assert epoch.metrics == {"loss": 0.5, "student_accuracy": 90.0}
    assert json.loads(epoch.model_dump_json()) == written
    with pytest.raises(ValidationError):
        EpochReport.model_validate(written | {"loss": "small"})
