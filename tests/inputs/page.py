"""`python -m tests.inputs.page`: writes docs/inputs.md from the cases, with the words that they get."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from tests.inputs import datasets, teachers
from tests.inputs.cases import Case, Result

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
START = """# What is taken, and what is refused

Written by `make inputs` from the cases in `tests/inputs/`, each of which the tests check. The words are those of the
service, the command and `lit_core` alike; long ones are cut here.

A teacher or a data set is inspected when it arrives (`litc inspect FILE` shows what was found). A request for a job is
then checked against both, so that what can't work is refused at once.
"""
MOST = 240
"""Characters of a message."""


def written() -> str:
    """The whole page."""
    parts = [START]
    for title, cases, outcome_of in (
        ("Teachers", teachers.CASES, teachers.outcome_of),
        ("Data sets", datasets.CASES, datasets.outcome_of),
    ):
        parts.append(f"## {title}\n")
        parts += _tables(cases, outcome_of)
    return "\n".join(parts)


def _tables(cases: Sequence[Case], outcome_of: Callable[[Case, Path], Result]) -> list[str]:
    tables = []
    for group, members in groupby(cases, key=lambda case: case.group):
        rows = [row_of(case, _made(case, outcome_of)) for case in members]
        tables.append(f"### {group}\n\n| Input | What happens | Words |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return tables


def _made(case: Case, outcome_of: Callable[[Case, Path], Result]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return outcome_of(case, Path(folder))


def row_of(case: Case, result: Result) -> str:
    words = result.words if len(result.words) <= MOST else f"{result.words[:MOST]}…"
    cells = (case.title, result.outcome.value, words.replace("|", "\\|").replace("\n", " "))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(written())
