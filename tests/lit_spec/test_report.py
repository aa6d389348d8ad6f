"""The report's model and the committed schema of report.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lit_client.command.display import RESULT_ROWS
from lit_spec import Export
from lit_spec.trainer.report import EpochReport, ExportReport, NetworkSummary, Ratios, schema

SCHEMA = Path(__file__).parents[2] / "docs/report.schema.json"


def test_the_committed_schema_is_the_models() -> None:
    assert SCHEMA.read_text() == schema(), "write it with `python -m lit_spec.trainer.report > docs/report.schema.json`"


def test_the_client_shows_fields_that_the_report_has() -> None:
    for _, path, _, ratio in RESULT_ROWS:
        assert path[0] in NetworkSummary.model_fields
        assert ratio is None or ratio in Ratios.model_fields


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
