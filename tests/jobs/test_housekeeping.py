"""Housekeeping: what a dead worker held is taken back, what was lost is said again, what was left is removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from jobs import housekeeping
from jobs.database.models import IdempotencyKey, Upload, Worker
from jobs.errors import Stale
from jobs.housekeeping import Housekeeper
from jobs.ledger import attempts, owned_jobs, uploads, workers
from jobs.ledger.attempts import Claim
from jobs.storage import checkpoints
from lit_spec import SPEC_VERSION, ErrorType, JobError
from lit_spec.states import JobState
from tests.worker.bench import OWNER, Bench, wait_for

EXPIRED = -1.0


@dataclass
class Household:
    bench: Bench
    wakeups: list[str] = field(default_factory=list)

    def keeper(self) -> Housekeeper:
        settings = self.bench.settings.model_copy(update={"housekeeping_seconds": 0.05})
        return Housekeeper(self.bench.database, self.publish, settings, self.bench.storage)

    def publish(self, queue: str) -> None:
        self.wakeups.append(queue)

    def round(self) -> list[str]:
        """The wakeups of one round."""
        self.wakeups.clear()
        assert self.keeper().round()
        return self.wakeups

    def execute(self, statement: str) -> None:
        with self.bench.database.engine.begin() as connection:
            connection.execute(text(statement))

    def types(self, job: str) -> list[str]:
        with self.bench.database.session() as session:
            query = "SELECT type FROM events WHERE job_id = :job ORDER BY seq"
            return list(session.scalars(text(query), {"job": job}))


@pytest.fixture
def house(bench: Bench) -> Household:
    return Household(bench)


def take(bench: Bench, lease_seconds: float = EXPIRED) -> Claim:
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], lease_seconds)
    assert claim is not None
    return claim


def test_an_expired_lease_is_reaped_and_counted_until_the_job_fails(house: Household) -> None:
    bench = house.bench
    job = bench.job(max_attempts=2)
    claim = take(bench, lease_seconds=60)
    assert house.round() == []
    assert bench.row(job).state == JobState.RUNNING
    with bench.database.session() as session:
        attempts.heartbeat(session, claim, EXPIRED, 0)

    # The same round tells the workers that the job waits again.
    assert house.round() == ["lit.cpu"]
    row = bench.row(job)
    assert (row.state, row.failures, row.worker_id) == (JobState.QUEUED, 1, None)
    with bench.database.session() as session, pytest.raises(Stale):
        attempts.heartbeat(session, claim, 60, 0)

    take(bench)
    assert house.round() == []
    row = bench.row(job)
    assert (row.state, row.failures) == (JobState.FAILED, 2)
    assert row.error is not None
    assert row.error["type"] == "worker-lost"
    assert "worker w " in row.error["detail"]
    assert house.types(job) == ["queued", "claimed", "lost", "claimed", "lost", "failed"]


def test_a_cancelled_job_whose_worker_is_lost_ends_as_cancelled(house: Household) -> None:
    job = house.bench.job(max_attempts=1)
    take(house.bench)
    house.bench.cancel(job)
    house.round()
    row = house.bench.row(job)
    assert (row.state, row.failures, row.error) == (JobState.CANCELLED, 1, None)
    assert house.types(job)[-2:] == ["lost", "cancelled"]


def test_one_housekeeper_at_a_time(house: Household) -> None:
    bench = house.bench
    job = bench.job()
    take(bench)
    take_lock = select(func.pg_try_advisory_lock(housekeeping.LOCK))
    with bench.database.engine.connect() as other:
        assert other.scalar(take_lock)
        assert not house.keeper().round()
        assert bench.row(job).state == JobState.RUNNING
        assert house.wakeups == []
        other.execute(select(func.pg_advisory_unlock(housekeeping.LOCK)))
        assert house.keeper().round()
        assert bench.row(job).state == JobState.QUEUED
        assert house.wakeups == ["lit.cpu"]
        # A round gives the lock back, for another process to take the next.
        assert other.scalar(take_lock)
        other.execute(select(func.pg_advisory_unlock(housekeeping.LOCK)))


def test_a_row_that_someone_else_holds_is_left_for_the_next_round(house: Household) -> None:
    teacher = house.bench.teacher()
    held, free = (house.bench.job(teacher=teacher) for _ in range(2))
    claim = take(house.bench)
    take(house.bench)
    with house.bench.database.session() as session:
        # Its heartbeat comes late, but comes: it keeps its job.
        attempts.heartbeat(session, claim, 60, 0)
        house.round()
    assert house.bench.row(held).state == JobState.RUNNING
    assert house.bench.row(free).state == JobState.QUEUED


def test_hints_go_to_the_queues_that_have_work(house: Household) -> None:
    bench = house.bench
    assert house.round() == []
    teacher = bench.teacher()
    on_cpu, on_cuda = bench.job(teacher=teacher), bench.job(teacher=teacher, device="cuda")
    assert house.round() == ["lit.cpu", "lit.cuda"]
    bench.cancel(on_cpu)
    assert house.round() == ["lit.cuda"]
    bench.cancel(on_cuda)
    assert house.round() == []
    bench.job(teacher=teacher, device="auto")
    assert house.round() == ["lit.cpu", "lit.cuda"]
    take(bench, lease_seconds=60)
    assert house.round() == []


def test_what_nobody_needs_any_more_is_removed(house: Household) -> None:
    bench = house.bench
    with bench.database.session() as session:
        abandoned, going_on = (uploads.create(session, OWNER, "dataset", "d", 9, None).id for _ in range(2))
    for upload in (abandoned, going_on):
        bench.storage.append(f"uploads/{upload}/data", 0, b"half")
    # Its folder was never made.
    with bench.database.session() as session:
        empty = uploads.create(session, OWNER, "dataset", "d", 9, None).id
    complete = bench.dataset()
    house.execute("UPDATE uploads SET created_at = now() - interval '8 days', received_at = now() - interval '8 days'")
    with bench.database.session() as session:
        uploads.record_progress(session, going_on, 0, 4)

    job = bench.job()
    with bench.database.session() as session:
        for key in ("old", "young"):
            session.add(IdempotencyKey(owner=OWNER, key=key, request_hash="hash", job_id=job))
        for worker in ("dead", "seen"):
            workers.register(session, worker, "host", ["cpu"], [SPEC_VERSION])
    house.execute("UPDATE idempotency_keys SET created_at = now() - interval '169 hours' WHERE key = 'old'")
    house.execute("UPDATE idempotency_keys SET created_at = now() - interval '167 hours' WHERE key = 'young'")
    house.execute("UPDATE workers SET last_seen = now() - interval '61 minutes' WHERE id = 'dead'")

    house.round()
    with bench.database.session() as session:
        left = set(session.scalars(select(Upload.id)))
        assert {abandoned, empty}.isdisjoint(left)
        assert {going_on, complete} <= left
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]
        assert session.scalars(select(Worker.id)).all() == ["seen"]
    assert not bench.storage.exists(f"uploads/{abandoned}/data")
    assert bench.storage.exists(f"uploads/{going_on}/data")
    assert bench.storage.exists(f"uploads/{complete}/data")


def test_nothing_is_removed_from_a_folder_that_is_not_the_storage(house: Household) -> None:
    bench = house.bench
    bench.job()
    claim = take(bench, lease_seconds=60)
    with bench.database.session() as session:
        attempts.cancelled(session, claim)
        upload = uploads.create(session, OWNER, "dataset", "d", 9, None).id
    house.execute("UPDATE spent_checkpoints SET finished_at = now() - interval '16 minutes'")
    house.execute("UPDATE uploads SET received_at = now() - interval '8 days'")
    bench.storage.delete(bench.marker())
    house.round()
    with bench.database.session() as session:
        assert checkpoints.settled(session)
        assert uploads.get(session, OWNER, upload)
    bench.storage.put_bytes(bench.marker(), b"")
    house.round()
    with bench.database.session() as session:
        assert not checkpoints.settled(session)
        assert session.get(Upload, upload) is None


LOST = JobError(type=ErrorType.WORKER_LOST, detail="gone")
ENDINGS: dict[str, Callable[[Session, Claim], object]] = {
    "succeeded": lambda session, claim: attempts.succeed(session, claim, {}, []),
    "failed": lambda session, claim: attempts.fail(session, claim, LOST),
    "cancelled": attempts.cancelled,
    "lost": lambda session, claim: attempts.lose(session, claim, LOST),
    "cancelled while it waited": lambda session, claim: (
        attempts.release(session, claim),
        owned_jobs.request_cancel(session, OWNER, claim.job_id),
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_checkpoints_of_a_job_that_ended_are_removed_and_its_logs_stay(house: Household, ending: str) -> None:
    bench = house.bench
    job = bench.job(max_attempts=1)
    with bench.database.session() as session:
        attempts.release(session, take(bench, lease_seconds=60))
    claim = take(bench, lease_seconds=60)
    going_on = bench.job()
    take(bench, lease_seconds=60)
    for key in (f"{job}/1", f"{job}/2", f"{going_on}/1"):
        bench.storage.put_bytes(f"jobs/{key}/checkpoint.pt", b"weights")
        bench.storage.put_bytes(f"jobs/{key}/trainer.log", b"log")
    logs = [f"jobs/{key}/trainer.log" for key in sorted((f"{job}/1", f"{job}/2", f"{going_on}/1"))]
    with bench.database.session() as session:
        assert checkpoints.spent(session, job) == []
        ENDINGS[ending](session, claim)
    with bench.database.session() as session:
        assert checkpoints.spent(session, job) == [f"jobs/{job}/{attempt}/checkpoint.pt" for attempt in (1, 2)]
        assert checkpoints.spent(session, going_on) == []

    everything = bench.storage.list("jobs/")
    house.round()
    # Not yet: a stale attempt may be storing one just now.
    assert bench.storage.list("jobs/") == everything
    house.execute("UPDATE spent_checkpoints SET finished_at = now() - interval '16 minutes'")
    house.round()
    assert bench.storage.list("jobs/") == sorted([*logs, f"jobs/{going_on}/1/checkpoint.pt"])
    with bench.database.session() as session:
        assert checkpoints.spent(session, job) == []


def test_a_checkpoint_that_cannot_be_removed_keeps_no_other_and_is_tried_again(house: Household) -> None:
    bench = house.bench
    teacher = bench.teacher()
    stuck, free = (bench.job(teacher=teacher) for _ in range(2))
    for job in (stuck, free):
        with bench.database.session() as session:
            attempts.cancelled(session, take(bench, lease_seconds=60))
        bench.storage.put_bytes(f"jobs/{job}/1/checkpoint.pt", b"weights")
    house.execute("UPDATE spent_checkpoints SET finished_at = now() - interval '16 minutes'")
    # A folder in its place is no file to be removed.
    bench.storage.delete(f"jobs/{stuck}/1/checkpoint.pt")
    bench.storage.put_bytes(f"jobs/{stuck}/1/checkpoint.pt/in-the-way", b"")
    house.round()
    assert not bench.storage.exists(f"jobs/{free}/1/checkpoint.pt")
    bench.storage.delete_prefix(f"jobs/{stuck}/1/checkpoint.pt/")
    bench.storage.put_bytes(f"jobs/{stuck}/1/checkpoint.pt", b"weights")
    house.round()
    assert not bench.storage.exists(f"jobs/{stuck}/1/checkpoint.pt")


def test_what_the_killed_left_in_storage_is_removed(house: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    house.bench.storage.check()
    left = house.bench.settings.storage_root / ".tmp" / "0123456789abcdef"
    left.write_bytes(b"half")
    house.round()
    assert left.exists()
    # No clock can be turned that says when a file was renamed.
    monkeypatch.setattr(housekeeping, "LEFTOVER_SECONDS", 0.0)
    house.round()
    assert not left.exists()


def test_the_thread_goes_on_after_an_outage_and_ends_when_stopped(house: Household) -> None:
    bench = house.bench
    job = bench.job()
    take(bench)
    house.execute("ALTER TABLE workers RENAME TO workers_away")
    keeper = house.keeper()
    keeper.start()
    try:
        # Leases are reaped first; the rest of each round fails.
        wait_for(lambda: bench.row(job).state == JobState.QUEUED)
        assert house.wakeups == []
        house.execute("ALTER TABLE workers_away RENAME TO workers")
        wait_for(lambda: house.wakeups)
    finally:
        keeper.stop()
    assert "housekeeper" not in {thread.name for thread in threading.enumerate()}
    with bench.database.engine.connect() as connection:
        # The rounds that failed gave the lock back as well.
        assert connection.scalar(select(func.pg_try_advisory_lock(housekeeping.LOCK)))
