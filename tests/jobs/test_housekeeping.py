"""Housekeeping: what a dead worker held is taken back, what was lost is said again, what was left is removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from jobs import backoff, housekeeping
from jobs.database.connection import Database
from jobs.database.models import IdempotencyKey, Upload, Worker
from jobs.database.outages import is_outage
from jobs.errors import Stale
from jobs.housekeeping import Housekeeper
from jobs.ledger import attempts, owned_jobs, uploads, workers
from jobs.ledger.attempts import Claim
from jobs.storage import checkpoints
from jobs.storage.folder import FolderStorage
from lit_spec import SPEC_VERSION, ErrorType, JobError
from lit_spec.states import JobState
from tests.worker.bench import OWNER, Bench, wait_for
from tests.worker.outages import cut_off

EXPIRED = -1.0


@dataclass
class Household:
    bench: Bench
    wakeups: list[str] = field(default_factory=list)

    def keeper(self, lease_seconds: float = 0.0, database: Database | None = None) -> Housekeeper:
        """Without a lease it takes jobs back at once, instead of waiting for their workers first."""
        settings = self.bench.settings.model_copy(update={"housekeeping_seconds": 0.05, "lease_seconds": lease_seconds})
        return Housekeeper(database or self.bench.database, self.publish, settings, self.bench.storage)

    def publish(self, queue: str) -> None:
        self.wakeups.append(queue)

    def round(self) -> list[str]:
        """The wakeups of one round."""
        self.wakeups.clear()
        keeper = self.keeper()
        assert keeper.keep_ledger()
        assert keeper.keep_storage()
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
    take_lock = select(func.pg_try_advisory_lock(housekeeping.LEDGER_LOCK))
    with bench.database.engine.connect() as other:
        assert other.scalar(take_lock)
        assert not house.keeper().keep_ledger()
        assert bench.row(job).state == JobState.RUNNING
        assert house.wakeups == []
        other.execute(select(func.pg_advisory_unlock(housekeeping.LEDGER_LOCK)))
        assert house.keeper().keep_ledger()
        assert bench.row(job).state == JobState.QUEUED
        assert house.wakeups == ["lit.cpu"]
        # A round gives the lock back, for another process to take the next.
        assert other.scalar(take_lock)
        other.execute(select(func.pg_advisory_unlock(housekeeping.LEDGER_LOCK)))


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
        bench.storage.write_piece(f"uploads/{upload}/data", 0, b"half", 0)
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


def test_a_part_that_fails_keeps_no_other_from_being_done(house: Household) -> None:
    bench = house.bench
    job = bench.job()
    take(bench)
    house.execute("ALTER TABLE workers RENAME TO workers_away")
    house.execute("UPDATE uploads SET received_at = now() - interval '8 days'")
    assert house.round() == ["lit.cpu"]
    assert bench.row(job).state == JobState.QUEUED
    with bench.database.engine.connect() as connection:
        # It gave the lock back as well.
        assert connection.scalar(select(func.pg_try_advisory_lock(housekeeping.LEDGER_LOCK)))


class FailingStorage(FolderStorage):
    """Raises what is neither an outage nor a failure of a disk, as a bug would."""

    mended = False
    calls = 0

    def remove_leftovers(self, seconds: float, unfinished: Callable[[], Mapping[str, int]]) -> None:
        self.calls += 1
        if not self.mended:
            raise ValueError("a bug")
        super().remove_leftovers(seconds, unfinished)


def test_the_threads_go_on_after_any_exception_and_end_when_stopped(
    house: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    bench = house.bench
    storage = FailingStorage(bench.settings.storage_root)
    bench.storage = storage
    keeper = house.keeper(lease_seconds=0.3)
    before = set(threading.enumerate())
    keeper.start()
    try:
        wait_for(lambda: storage.calls > 2)
        storage.mended = True
        calls = storage.calls
        wait_for(lambda: storage.calls > calls + 2)
        # Housekeeping in the ledger does not depend on it.
        job = bench.job()
        take(bench)
        wait_for(lambda: bench.row(job).state == JobState.QUEUED)
        wait_for(lambda: house.wakeups)
    finally:
        keeper.stop()
    started = set(threading.enumerate()) - before
    assert not {"housekeeper", "storage-housekeeper"} & {thread.name for thread in started}


class SlowStorage(FolderStorage):
    """A round in it ends when `go_on` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.rounds = 0
        self.go_on = threading.Event()

    def remove_leftovers(self, seconds: float, unfinished: Callable[[], Mapping[str, int]]) -> None:
        self.rounds += 1
        assert self.go_on.wait(30)
        super().remove_leftovers(seconds, unfinished)


def test_one_housekeeper_at_a_time_where_storage_is_slow(house: Household) -> None:
    lease = 0.3
    storage = SlowStorage(house.bench.settings.storage_root)
    house.bench.storage = storage
    keepers = [house.keeper(lease) for _ in range(3)]
    try:
        for keeper in keepers:
            keeper.start()
        wait_for(lambda: storage.rounds)
        time.sleep(5 * lease)
        assert storage.rounds == 1
    finally:
        storage.go_on.set()
        for keeper in keepers:
            keeper.stop()


def test_a_round_that_outlasts_its_lock_has_done_its_work(house: Household) -> None:
    bench = house.bench
    bench.job()
    with bench.database.engine.connect() as other:

        def publish(queue: str) -> None:
            house.publish(queue)
            # Until the database has ended the transaction of the lock.
            wait_for(lambda: other.scalar(select(func.pg_try_advisory_lock(housekeeping.LEDGER_LOCK))))

        settings = bench.settings.model_copy(update={"lease_seconds": 0.2})
        assert Housekeeper(bench.database, publish, settings, bench.storage).keep_ledger()
        other.execute(select(func.pg_advisory_unlock(housekeeping.LEDGER_LOCK)))
    assert house.wakeups == ["lit.cpu"]
    # Its connection is not used again.
    assert house.round() == ["lit.cpu"]


def test_after_an_outage_every_worker_gets_the_length_of_a_lease(house: Household) -> None:
    bench = house.bench
    lease = 0.5
    teacher = bench.teacher()
    with cut_off(bench.database, "housekeeper") as outage:
        keeper = house.keeper(lease, outage.database)
        healthy, dead = (bench.job(teacher=teacher) for _ in range(2))
        claim, _ = take(bench), take(bench)

        def rounds() -> None:
            """For a little longer than a lease, as the thread does."""
            end = time.monotonic() + 1.5 * lease
            while time.monotonic() < end:
                assert keeper.keep_ledger()
                time.sleep(lease / 10)

        # A process that has just started doesn't know whether there was an outage.
        assert keeper.keep_ledger()
        assert bench.row(dead).state == JobState.RUNNING
        with bench.database.session() as session:
            attempts.heartbeat(session, claim, 60, 0)
        rounds()
        assert [bench.row(job).state for job in (healthy, dead)] == [JobState.RUNNING, JobState.QUEUED]

        take(bench)
        with bench.database.session() as session:
            attempts.heartbeat(session, claim, EXPIRED, 0)
        outage.lock_out()
        with pytest.raises(OperationalError):
            keeper.keep_ledger()
        outage.let_in()
        assert keeper.keep_ledger()
        assert [bench.row(job).failures for job in (healthy, dead)] == [0, 1]
        with bench.database.session() as session:
            attempts.heartbeat(session, claim, 60, 0)
        rounds()
        assert [bench.row(job).failures for job in (healthy, dead)] == [0, 2]

        # Nor does one that was suspended.
        take(bench)
        time.sleep(1.5 * lease)
        assert keeper.keep_ledger()
        assert bench.row(dead).failures == 2


def test_nothing_is_reaped_right_after_the_database_server_has_started(house: Household) -> None:
    bench = house.bench
    job = bench.job()
    take(bench)
    with bench.database.session() as session:
        up_for = session.scalar(select(func.clock_timestamp() - func.pg_postmaster_start_time()))
        assert up_for is not None
        assert housekeeping.reap(session, up_for.total_seconds() + 60) == []
        assert housekeeping.reap(session, up_for.total_seconds()) == [job]


def test_a_server_whose_clock_was_set_back_does_not_stop_the_reaping(house: Household) -> None:
    bench = house.bench
    job = bench.job()
    take(bench)
    house.execute(
        "CREATE FUNCTION public.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql "
        "AS $$ SELECT clock_timestamp() + interval '1 day' $$"
    )
    with bench.database.session() as session:
        session.execute(text("SET LOCAL search_path = public, pg_catalog"))
        assert housekeeping.reap(session, 60) == [job]


FAULTS = {
    "a statement that takes too long": "57014",
    "a deadlock": "40P01",
    "a lock that is not available": "55P03",
    "too little memory": "53200",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_that_always_fails_does_not_stop_the_reaping(house: Household, fault: str) -> None:
    bench = house.bench
    job = bench.job()
    take(bench)
    # In the place of a table that the second part of each round reads.
    house.execute("ALTER TABLE studies RENAME TO studies_away")
    house.execute(
        "CREATE FUNCTION fail() RETURNS SETOF studies_away LANGUAGE plpgsql "
        f"AS $$ BEGIN RAISE EXCEPTION 'too bad' USING ERRCODE = '{FAULTS[fault]}'; END $$"
    )
    house.execute("CREATE VIEW studies AS SELECT * FROM fail()")
    lease = 0.5
    keeper = house.keeper(lease)
    end = time.monotonic() + 2 * lease
    while time.monotonic() < end:
        assert keeper.keep_ledger()
        time.sleep(lease / 10)
    assert bench.row(job).state == JobState.QUEUED
    # The parts after it are done too.
    assert "lit.cpu" in house.wakeups


def test_a_transaction_that_stands_still_gives_its_locks_up(house: Household) -> None:
    bench = house.bench
    job = bench.job()
    claim = take(bench)
    frozen = Database(bench.settings.database_url or "", idle_transaction_seconds=0.5)
    with Session(frozen.engine) as session:
        # As a worker that is frozen between a heartbeat and its commit: it holds the row of its job.
        attempts.heartbeat(session, claim, 60, 0)
        assert house.round() == []
        wait_for(lambda: house.round() == ["lit.cpu"])
        with pytest.raises(DBAPIError) as ended:
            session.commit()
    assert is_outage(ended.value)
    frozen.close()
    assert (bench.row(job).state, bench.row(job).failures) == (JobState.QUEUED, 1)
