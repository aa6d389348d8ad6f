"""Quotas hold when several ask at once, and pass over the jobs of owners who run as many as they may."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from jobs.errors import QuotaExceeded
from jobs.ledger import attempts, creation, owned_jobs, quotas, uploads
from jobs.ledger.attempts import Artifact, Claim
from jobs.ledger.creation import NewJob
from jobs.ledger.queue import HEAD
from jobs.studies.advance import advance
from lit_spec import SPEC_VERSION, JobRequest, resolve
from lit_spec.answers.owners import Quotas
from tests.jobs.racing import together
from tests.jobs.read_rows import claim_and_count_rows
from tests.jobs.study_bench import make_study
from tests.worker.bench import INSPECTION, OWNER, Bench

OTHER = "another"


def claim(bench: Bench, defaults: Quotas, worker: str = "w") -> Claim | None:
    with bench.database.session() as session:
        return attempts.claim(session, worker, ["cpu"], [SPEC_VERSION], 60, defaults=defaults)


def set_quotas(bench: Bench, owner: str, **limits: int | None) -> None:
    with bench.database.session() as session:
        quotas.replace(session, owner, limits)


def of_owner(bench: Bench, job_id: str, owner: str) -> str:
    with bench.database.session() as session:
        session.execute(text("UPDATE jobs SET owner = :owner WHERE id = :id"), {"owner": owner, "id": job_id})
    return job_id


def create(session: Session, teacher: str, defaults: Quotas) -> str:
    asked = JobRequest.model_validate(
        {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 14}, "device": "cpu"}
    )
    spec = resolve(asked, INSPECTION)
    return creation.create(session, NewJob(OWNER, asked, spec, {teacher: None}), defaults).id


def test_of_many_requests_at_once_only_those_that_fit_make_a_job(bench: Bench) -> None:
    teacher, defaults = bench.teacher(), Quotas(jobs_queued=3)

    def ask() -> tuple[str, int, int] | None:
        try:
            with bench.database.session() as session:
                create(session, teacher, defaults)
        except QuotaExceeded as refused:
            return refused.quota, refused.used, refused.allowed
        return None

    found = together([ask] * 8)
    assert (found.count(None), found.count(("jobs_queued", 3, 3))) == (3, 5)
    # A job that runs is no longer in the queue.
    assert claim(bench, defaults) is not None
    assert ask() is None
    assert ask() is not None
    # What an administrator sets for one owner counts instead, also that there is no limit.
    set_quotas(bench, OWNER, jobs_queued=None)
    assert ask() is None
    set_quotas(bench, OWNER)
    assert ask() is not None


def test_of_many_uploads_at_once_only_those_that_fit_are_announced(bench: Bench) -> None:
    defaults = Quotas(bytes=100)

    def announce(size: int = 40) -> tuple[str, int] | None:
        try:
            with bench.database.session() as session:
                uploads.create(session, OWNER, "dataset", "d", size, None, defaults=defaults)
        except QuotaExceeded as refused:
            return refused.quota, refused.allowed
        return None

    found = together([announce] * 6)
    assert (found.count(None), found.count(("bytes", 100))) == (2, 4)
    with bench.database.session() as session:
        assert quotas.usage(session, OWNER).bytes == 80
    assert announce(20) is None
    assert announce(1) is not None


def test_files_of_jobs_count_until_the_job_is_deleted(bench: Bench) -> None:
    job = bench.job(teacher=bench.teacher(b"12345"))
    claimed = claim(bench, quotas.NO_QUOTAS)
    assert claimed is not None
    files = [Artifact("a", "jobs/x/1/a", 70, "00"), Artifact("b", "jobs/x/1/b", 7, "00")]
    with bench.database.session() as session:
        attempts.succeed(session, claimed, {}, files)
        assert quotas.usage(session, OWNER).bytes == 82
    with bench.database.session() as session:
        owned_jobs.delete(session, OWNER, job)
        assert quotas.usage(session, OWNER).bytes == 5


def test_jobs_behind_those_of_an_owner_at_the_limit_run(bench: Bench) -> None:
    defaults, teacher = Quotas(jobs_running=2), bench.teacher()
    mine = [bench.job(teacher=teacher) for _ in range(4)]
    theirs = of_owner(bench, bench.job(teacher=teacher), OTHER)
    taken = [claim(bench, defaults) for _ in range(4)]
    assert [one and one.job_id for one in taken] == [*mine[:2], theirs, None]
    with bench.database.session() as session:
        waits = owned_jobs.waiting_reason(session, owned_jobs.get(session, OWNER, mine[2]), defaults)
    assert waits is not None
    assert waits.reason in {"no-worker", "quota"}
    with bench.database.session() as session:
        session.execute(text("INSERT INTO workers VALUES ('w', 'h', '{cpu}', :versions)"), {"versions": [SPEC_VERSION]})
        waits = owned_jobs.waiting_reason(session, owned_jobs.get(session, OWNER, mine[2]), defaults)
        another = owned_jobs.waiting_reason(session, owned_jobs.get(session, OWNER, mine[3]), Quotas())
    assert waits is not None
    assert (waits.reason, waits.position) == ("quota", 1)
    assert waits.detail.endswith(": 2")
    assert another is not None
    assert (another.reason, another.position) == ("position", 2)
    first = taken[0]
    assert first is not None
    with bench.database.session() as session:
        attempts.succeed(session, first, {}, [])
    after = claim(bench, defaults)
    assert after is not None
    assert after.job_id == mine[2]


def test_workers_that_claim_at_once_keep_the_limit(bench: Bench) -> None:
    defaults, teacher = Quotas(jobs_running=3), bench.teacher()
    for number in range(16):
        of_owner(bench, bench.job(teacher=teacher), f"owner-{number % 2}")
    set_quotas(bench, "owner-1", jobs_running=1)
    found = together([lambda i=i: claim(bench, defaults, f"w{i}") for i in range(8)])  # type: ignore[misc]
    for _ in range(4):
        found.append(claim(bench, defaults))
    owners = [one.owner for one in found if one is not None]
    assert (owners.count("owner-0"), owners.count("owner-1")) == (3, 1)
    assert len({one.job_id for one in found if one is not None}) == 4


def test_a_claim_that_stands_still_holds_up_only_its_owner(bench: Bench) -> None:
    defaults, teacher = Quotas(jobs_running=2), bench.teacher()
    mine = bench.job(teacher=teacher)
    theirs = of_owner(bench, bench.job(teacher=teacher), OTHER)
    with bench.database.session() as still:
        assert quotas.may_run(still, OWNER, defaults)
        for expected in (theirs, None):
            with bench.database.session() as session:
                session.execute(text("SET LOCAL lock_timeout = '1s'"))
                taken = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60, defaults=defaults)
            assert (taken and taken.job_id) == expected
    after = claim(bench, defaults)
    assert after is not None
    assert after.job_id == mine


def test_nothing_of_an_owner_with_no_place_runs(bench: Bench) -> None:
    barred, free = bench.job(), of_owner(bench, bench.job(), OTHER)
    set_quotas(bench, OWNER, jobs_running=0)
    taken = claim(bench, quotas.NO_QUOTAS)
    assert taken is not None
    assert taken.job_id == free
    assert claim(bench, quotas.NO_QUOTAS) is None
    set_quotas(bench, OWNER, jobs_running=None)
    taken = claim(bench, quotas.NO_QUOTAS)
    assert taken is not None
    assert taken.job_id == barred


@pytest.mark.parametrize(
    "jobs", [5_000, pytest.param(100_000, marks=pytest.mark.long)], ids=["short", "as many as are promised"]
)
def test_a_claim_does_not_read_the_queue_of_an_owner_at_the_limit(bench: Bench, jobs: int) -> None:
    first = bench.job()
    of_owner(bench, first, OTHER)
    columns = "tags, device, spec_version, request, spec, max_attempts"
    copy = f"""
        INSERT INTO jobs (id, owner, state, created_at, {columns})
        SELECT 'job_' || n, '{OWNER}', 'queued', now() - interval '1 day' + n * interval '1 ms', {columns}
        FROM jobs, generate_series(1, :jobs) AS n WHERE id = :id
    """
    with bench.database.session() as session:
        session.execute(text(copy), {"jobs": jobs, "id": first})
    with bench.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE jobs"))
    set_quotas(bench, OWNER, jobs_running=0)
    taken, rows = claim_and_count_rows(bench, "cpu")
    assert taken is not None
    assert taken.job_id == first
    assert rows < 2 * HEAD + 200


def test_a_study_makes_its_trials_as_there_is_room(bench: Bench) -> None:
    defaults = Quotas(jobs_queued=2)
    study = make_study(bench, "compare", methods=["lit"], seeds=list(range(4)))
    with bench.database.session() as session:
        session.execute(text("DELETE FROM jobs"))
        advance(session, study, defaults)
    with bench.database.session() as session:
        assert quotas.usage(session, OWNER).jobs_queued == 2
        advance(session, study, defaults)
        assert quotas.usage(session, OWNER).jobs_queued == 2
    for _ in range(2):
        assert claim(bench, defaults) is not None
    with bench.database.session() as session:
        advance(session, study, defaults)
        usage = quotas.usage(session, OWNER)
        assert (usage.jobs_queued, usage.jobs_running) == (2, 2)
