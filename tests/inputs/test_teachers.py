"""Every kind of teacher that docs/inputs.md lists."""

from pathlib import Path

import pytest

from tests.inputs.cases import Case
from tests.inputs.page import PAGE, row_of
from tests.inputs.teachers import CASES, outcome_of


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_teacher_is_taken_or_refused_with_words(case: Case, tmp_path: Path) -> None:
    result = outcome_of(case, tmp_path)
    assert (result.outcome, case.says in result.words) == (case.outcome, True), result
    assert row_of(case, result) in PAGE.read_text(), "the page says otherwise: run `make inputs`"
