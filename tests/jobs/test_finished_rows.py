"""The database itself refuses to change a job that has ended, whoever asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact, Claim
from lit_spec import SPEC_VERSION, ErrorType, JobError
from tests.worker.bench import Bench

ENDINGS: dict[str, Callable[[Session, Claim], None]] = {
    "succeeded": lambda session, claim: attempts.succeed(session, claim, {}, [Artifact("a", "jobs/x/1/a", 1, "00")]),
    "failed": lambda session, claim: attempts.fail(session, claim, JobError(type=ErrorType.DIVERGED, detail="NaN")),
    "cancelled": attempts.cancelled,
}
CHANGES = ["state = 'queued', finished_at = NULL", "result = '{}'", "attempt = attempt + 1", "name = name"]


def execute(bench: Bench, statement: str, job: str) -> int:
    """How many rows it touched."""
    with bench.database.engine.begin() as connection:
        return connection.execute(text(statement), {"job": job}).rowcount


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_terminal_row_is_never_changed_but_may_be_deleted(bench: Bench, ending: str) -> None:
    job = bench.job()
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
    assert claim is not None
    # While it runs the same statement is allowed: what refuses it below is the trigger.
    assert execute(bench, "UPDATE jobs SET attempt = attempt WHERE id = :job", job) == 1
    with bench.database.session() as session:
        ENDINGS[ending](session, claim)
    for change in CHANGES:
        with pytest.raises(IntegrityError, match=f"job {job} is {ending}: terminal rows never change"):
            execute(bench, f"UPDATE jobs SET {change} WHERE id = :job", job)
    assert bench.row(job).state == ending
    assert execute(bench, "DELETE FROM jobs WHERE id = :job", job) == 1
    assert bench.events(job) == []
