"""Tables, as a pipe gets them."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_client.display import result_table


def lines(table: Table) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as shown:
        console.print(table)
    return shown.get().splitlines()


def row(table: Table, label: str) -> list[str]:
    """The cells beside a label; empty where there is no such row."""
    return next((line.split("│")[2:-1] for line in lines(table) if f" {label} " in line), [])


def result(**of_student: Any) -> dict[str, Any]:
    return {"teacher": {"accuracy": {"test": 98.5}}, "student": {"accuracy": {"test": 97.0}, **of_student}}


def test_scores_stand_in_rows_where_they_were_measured() -> None:
    measured = {"top5": {"test": 99.25}, "agreement": {"test": 98.0}, "calibration_error": {"test": 1.5}}
    table = result_table(result(**measured))
    assert row(table, "top-5, test (%)")[1].strip() == "99.25"
    assert row(table, "agreement, test (%)")[1].strip() == "98.00"
    assert row(table, "calibration error, test (%)")[1].strip() == "1.50"


def test_scores_that_were_not_measured_have_no_row() -> None:
    table = result_table(result(top5={"val": None, "test": None}))
    assert row(table, "accuracy, test (%)")[1].strip() == "97.00"
    assert row(table, "top-5, test (%)") == []
    assert row(table, "agreement, test (%)") == []
