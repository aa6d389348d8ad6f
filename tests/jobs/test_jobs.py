"""Jobs as their owner sees them: made once, listed, cancelled, deleted, and told why they wait."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from jobs.database.connection import Database
from jobs.database.models import IdempotencyKey, Job, JobUpload, Worker
from jobs.errors import Conflict, NotFound
from jobs.ledger import attempts, creation, owned_jobs, workers
from jobs.ledger.attempts import Claim
from jobs.ledger.creation import NewJob, NotMade
from jobs.ledger.idempotency import IdempotentRequest, find_job, find_study
from jobs.ledger.owned_jobs import WaitingReason
from jobs.ledger.owned_rows import PageCursor
from lit_spec import SPEC_VERSION, ErrorType, JobError, JobRequest, resolve
from lit_spec.states import JobState
from tests.jobs.racing import together, wait_until_blocked
from tests.worker.bench import INSPECTION, OWNER, Bench

CRASHED = JobError(type=ErrorType.TRAINER_CRASHED, detail="signal 9")


def create(
    database: Database, uploads: Sequence[str], key: IdempotentRequest | None = None, owner: str = OWNER, **asked: Any
) -> str:
    body = {"teacher": uploads[0], "dataset": {"builtin": "digits"}, "student": {"depth": 14}, **asked}
    request = JobRequest.model_validate(body)
    with database.session() as session:
        needed = dict.fromkeys(uploads)
        return creation.create(session, NewJob(owner, request, resolve(request, INSPECTION), needed, key)).id


def take(database: Database) -> Claim:
    with database.session() as session:
        claim = attempts.claim(session, "w", ["cpu", "cuda"], [SPEC_VERSION], 60)
    assert claim is not None
    return claim


def listed(database: Database, owner: str = OWNER, **filters: Any) -> list[str]:
    with database.session() as session:
        return [job.id for job in owned_jobs.list_page(session, owner, **filters)]


def count_jobs(database: Database) -> int:
    with database.session() as session:
        return session.execute(select(func.count(Job.id))).scalar_one()


def waiting(database: Database, job_id: str) -> WaitingReason | None:
    with database.session() as session:
        return owned_jobs.waiting_reason(session, owned_jobs.get(session, OWNER, job_id))


def test_a_new_job_is_what_was_asked_for(bench: Bench) -> None:
    teacher = bench.teacher()
    job = create(bench.database, [teacher, teacher], name="one", tags=["a", "b"], max_attempts=5, device="cuda")
    row = bench.row(job)
    assert (row.state, row.device, row.name, row.tags) == (JobState.QUEUED, "cuda", "one", ["a", "b"])
    assert (row.attempt, row.failures, row.max_attempts, row.event_seq) == (0, 0, 5, 1)
    # The request as it was sent, the specification with every value.
    assert "alpha" not in row.request
    assert row.spec["alpha"] == 0.5
    with bench.database.session() as session:
        assert session.scalars(select(JobUpload.upload_id)).all() == [teacher]
        assert [(event.seq, event.type) for event in owned_jobs.events_after(session, job, 0, 9)] == [(1, "queued")]
    with pytest.raises(NotFound, match="upl_missing"):
        create(bench.database, [teacher, "upl_missing"])
    assert count_jobs(bench.database) == 1


def test_an_idempotency_key_makes_one_job(bench: Bench) -> None:
    database, teacher = bench.database, bench.teacher()
    first = create(database, [teacher], IdempotentRequest("key", "hash"))
    assert create(database, [teacher], IdempotentRequest("key", "hash")) == first
    with pytest.raises(Conflict) as conflict:
        create(database, [teacher], IdempotentRequest("key", "another hash"))
    assert conflict.value.type == "idempotency-key-reused"
    with database.session() as session:
        found = find_job(session, OWNER, IdempotentRequest("key", "hash"))
        assert found is not None
        assert found.id == first
        assert find_job(session, OWNER, IdempotentRequest("other", "hash")) is None
        assert find_job(session, "another", IdempotentRequest("key", "hash")) is None
        with pytest.raises(Conflict):
            find_job(session, OWNER, IdempotentRequest("key", "another hash"))

    # Another key, another owner and no key make jobs of their own.
    others = [create(database, [teacher], key) for key in (IdempotentRequest("key 2", "hash"), None, None)]
    with database.session() as session:
        session.execute(text("UPDATE uploads SET owner = 'another'"))
    others.append(create(database, [teacher], IdempotentRequest("key", "another hash"), "another"))
    assert len({first, *others}) == 5

    # A retry finds its job even when the teacher is no longer there; a key goes with its job.
    assert create(database, [teacher], IdempotentRequest("key", "hash")) == first
    bench.cancel(first)
    with database.session() as session:
        owned_jobs.delete(session, OWNER, first)
        assert session.get(IdempotencyKey, (OWNER, "key")) is None


def test_concurrent_requests_with_one_key_make_one_job(bench: Bench) -> None:
    teacher = bench.teacher()
    for attempt in range(5):
        key = IdempotentRequest(f"key {attempt}", "hash")
        made = together([partial(create, bench.database, [teacher], key)] * 8)
        assert len(set(made)) == 1
        assert count_jobs(bench.database) == attempt + 1


def test_a_job_made_at_once_waits_for_whoever_looks_for_its_key(bench: Bench) -> None:
    """A request for a study looks for the key first, and remembers it at its end."""
    teacher, key = bench.teacher(), IdempotentRequest("key", "hash")
    request = JobRequest.model_validate({"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 8}})
    new = [NewJob(OWNER, request, resolve(request, INSPECTION), {teacher: None}, key) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        with bench.database.session() as session:
            assert find_study(session, OWNER, key) is None
            late = pool.submit(creation.create_at_once, bench.database, new[0])
            wait_until_blocked(bench.database)
            creation.create(session, new[1])
        assert late.result(20) is NotMade.KEY_IS_KNOWN
    assert listed(bench.database) == [new[1].id]


def test_a_list_has_filters_and_only_its_owners_jobs(bench: Bench) -> None:
    database, teacher = bench.database, bench.teacher()
    plain = create(database, [teacher])
    tagged = create(database, [teacher], tags=["study", "x"], name="one")
    both = create(database, [teacher], tags=["study"], name="one")
    assert take(database).job_id == plain
    bench.cancel(both)

    assert listed(database) == [both, tagged, plain]
    assert listed(database, tag="study") == [both, tagged]
    assert listed(database, tag="stud") == []
    assert listed(database, name="one", state="queued") == [tagged]
    assert listed(database, state="running") == [plain]
    assert listed(database, tag="x", name="two") == []
    assert listed(database, "another") == []


def test_pages_join_without_loss_or_repetition(bench: Bench) -> None:
    database, teacher = bench.database, bench.teacher()
    made = [create(database, [teacher]) for _ in range(5)]
    # Two of the same moment, parted by the end of a page: their ids tell them apart.
    with database.session() as session:
        moment = owned_jobs.get(session, OWNER, made[1]).created_at
        session.execute(update(Job).where(Job.id == made[2]).values(created_at=moment))
    expected = [made[4], made[3], *sorted(made[1:3], reverse=True), made[0]]
    seen: list[str] = []
    after = None
    for limit in (3, 1, 5):
        with database.session() as session:
            page = owned_jobs.list_page(session, OWNER, after=after, limit=limit)
        seen += [job.id for job in page]
        after = PageCursor(page[-1].created_at, page[-1].id)
        # What comes in front meanwhile does not move the next page.
        create(database, [teacher])
    assert seen == expected


def test_cancelling(bench: Bench) -> None:
    teacher = bench.teacher()
    running, queued = bench.job(teacher=teacher), bench.job(teacher=teacher)
    claim = take(bench.database)

    bench.cancel(queued)
    row = bench.row(queued)
    assert row.state == JobState.CANCELLED
    assert row.cancel_requested_at == row.finished_at is not None
    before = bench.row(running)
    bench.cancel(running)
    asked = bench.row(running)
    assert (asked.state, asked.lease_expires_at) == (JobState.RUNNING, before.lease_expires_at)
    assert asked.cancel_requested_at is not None
    assert asked.version > before.version

    # Asking twice is as good as once.
    for job in (running, queued):
        once = bench.row(job)
        bench.cancel(job)
        again = bench.row(job)
        assert (again.version, again.cancel_requested_at) == (once.version, once.cancel_requested_at)

    # The worker was faster than the wish.
    with bench.database.session() as session:
        attempts.succeed(session, claim, {}, [])
    with pytest.raises(Conflict, match="has already succeeded") as conflict:
        bench.cancel(running)
    assert conflict.value.type == "job-finished"
    assert bench.row(running).state == JobState.SUCCEEDED


def test_only_a_finished_job_can_be_deleted(bench: Bench) -> None:
    job = bench.job()

    def delete() -> str:
        with bench.database.session() as session:
            return owned_jobs.delete(session, OWNER, job)

    with pytest.raises(Conflict, match="is queued: cancel it first") as conflict:
        delete()
    assert conflict.value.type == "job-not-finished"
    claim = take(bench.database)
    with pytest.raises(Conflict, match="is running: cancel it first"):
        delete()
    with bench.database.session() as session:
        attempts.record(session, claim, [], [attempts.Metric("lit", 1, "loss", 1.0)], None, None)
        attempts.fail(session, claim, CRASHED)
    assert delete() == f"jobs/{job}/"
    with bench.database.session() as session:
        for table in ("jobs", "events", "epoch_metrics", "job_tags", "job_uploads"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table


def test_another_owners_job_is_not_there(bench: Bench) -> None:
    job = bench.job()
    bench.cancel(job)
    for action in (owned_jobs.get, owned_jobs.request_cancel, owned_jobs.delete):
        for owner, job_id in (("another", job), (OWNER, "job_missing")):
            with bench.database.session() as session, pytest.raises(NotFound):
                action(session, owner, job_id)
    assert bench.row(job).state == JobState.CANCELLED


def test_why_a_job_waits(bench: Bench) -> None:
    database, teacher = bench.database, bench.teacher()
    running, first, on_cuda, second = (
        create(database, [teacher], device=device) for device in ("cpu", "cpu", "cuda", "auto")
    )

    def reasons(*jobs: str) -> list[tuple[str, int] | None]:
        found = [waiting(database, job) for job in jobs]
        return [None if why is None else (why.reason, why.position) for why in found]

    assert take(database).job_id == running
    assert reasons(running, first, second) == [None, ("no-worker", 1), ("no-worker", 3)]
    with database.session() as session:
        workers.register(session, "a", "host", ["cpu"], [SPEC_VERSION])
        workers.register(session, "older", "host", ["cpu", "cuda"], [SPEC_VERSION - 1])
    assert reasons(first, on_cuda) == [("starting", 1), ("no-worker", 1)]
    with database.session() as session:
        # As if "a" had claimed it. Its own row still says nothing of a job.
        session.execute(update(Job).where(Job.id == running).values(worker_id="a"))
    assert reasons(first) == [("position", 1)]
    why = waiting(database, first)
    assert why is not None
    assert "1 worker, of which 1 busy" in why.detail
    with database.session() as session:
        workers.register(session, "b", "host", ["cpu", "cuda"], [SPEC_VERSION])
    assert reasons(first, on_cuda, second) == [("starting", 1), ("position", 2), ("position", 3)]

    # A worker that wasn't seen lately takes nothing, nor one that has gone.
    with database.session() as session:
        session.execute(update(Worker).where(Worker.id == "b").values(last_seen=text("now() - interval '31 s'")))
        workers.remove(session, "a")
    assert reasons(first) == [("no-worker", 1)]


def test_the_position_counts_only_what_the_workers_take_first(bench: Bench) -> None:
    database, teacher = bench.database, bench.teacher()
    on_cuda = create(database, [teacher], device="cuda")
    auto = create(database, [teacher], device="auto")
    with database.session() as session:
        workers.register(session, "a", "host", ["cpu"], [SPEC_VERSION])
    # No worker can run the earlier job, so it holds nobody up.
    assert waiting(database, on_cuda) == WaitingReason(
        "no-worker", 1, "no live worker has the device cuda: start one with `litc worker`"
    )
    why = waiting(database, auto)
    assert why is not None
    assert (why.reason, why.position) == ("starting", 1)
    with database.session() as session:
        claim = attempts.claim(session, "a", ["cpu"], [SPEC_VERSION], 60)
    assert claim is not None
    assert claim.job_id == auto
