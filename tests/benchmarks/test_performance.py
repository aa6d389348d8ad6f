"""The tables of docs/performance.md, from the last lines of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.performance.page import END, TABLES, checked_text, write_page

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "memory_gib": 8, "gpu": "none", "python": "3.11", "torch": "2.14"}
STEP = {"networks": "resnet", "batch": 8, "loss": "lit", "precision": "float32", "least": 90.0, "most": 110.0}
TRAIN: dict[str, Any] = {
    "machine": MACHINE,
    "rounds": 7,
    "results": [
        STEP | {"arm": "naive", "per_second": 100.0, "ratio_to_naive": 1.0},
        STEP | {"arm": "exact", "per_second": 150.0, "ratio_to_naive": 1.5},
    ],
}
POLL = {"what": "poll", "unit": "/s", "connections": 8, "low": 1.0, "high": 2.0}
SERVICE: dict[str, Any] = {
    "machine": MACHINE,
    "rounds": 3,
    "figures": [
        POLL | {"server": "lit", "median": 2000.0, "p50_ms": 1.0, "p99_ms": 4.0},
        POLL | {"server": "bare", "median": 4000.0, "p50_ms": 0.5, "p99_ms": 2.0},
        {"what": "memory", "unit": "MiB", "connections": None, "server": "lit", "median": 90.0},
    ],
    "ratios": {"two_processes_to_one_poll_ended": {"8": 1.4, "64": 1.5}, "upload_to_bare": {"-": 0.9}},
}


def marks(name: str) -> str:
    return f"<!-- table: bench-{name} -->\nold\n{END}\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text("# Before\n" + "between\n".join(map(marks, TABLES)) + "after\n")
    return path


def test_a_table_replaces_what_is_between_its_marks(page: Path) -> None:
    write_page({"train": TRAIN, "service": SERVICE}, page)
    text = page.read_text()
    assert "| resnet, batch 8 | lit | float32 | 100 (1.00) | 150 (1.50) |" in text
    assert "| poll | 8 | 2,000 (1, 4) | 4,000 (0.5, 2) | /s |" in text
    assert "| memory |  | 90 |  | MiB |" in text
    assert "| 2 processes to 1 | 8 connections | 64 connections |" in text
    assert "| poll ended | 1.40 | 1.50 |" in text
    assert "| ratio | all |\n|---|---:|\n| upload to bare | 0.90 |" in text
    assert "a CPU, 2 cores" in text
    assert (text.count("old"), text.count("between"), text.startswith("# Before"), text.endswith("after\n")) == (
        *(len(TABLES) - 2, len(TABLES) - 1),
        True,
        True,
    )
    write_page({"train": TRAIN}, page)
    assert page.read_text() == text


def test_a_page_without_a_tables_marks_stays_as_it_is(page: Path) -> None:
    wrong = page.read_text().replace("bench-service", "bench-other")
    page.write_text(wrong)
    with pytest.raises(ValueError, match="lacks the marks <!-- table: bench-service -->"):
        write_page({"train": TRAIN}, page)
    assert page.read_text() == wrong


def test_the_documentation_has_all_marks() -> None:
    text = checked_text()
    assert text.count(END) == len(TABLES)
