"""The queue of many jobs: places, claims past locked jobs, and writes that leave the indexes alone."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from jobs.database.models import Job
from jobs.ledger import attempts, owned_jobs, quotas, workers
from jobs.ledger.attempts import Claim, Metric
from jobs.ledger.owned_jobs import WaitingReason
from jobs.ledger.queue import HEAD, MOST_COUNTED
from lit_spec import SPEC_VERSION
from tests.jobs.read_rows import claim_and_count_rows
from tests.worker.bench import OWNER, Bench

COLUMNS = "owner, tags, spec_version, request, spec, max_attempts"


def add_before(bench: Bench, job: str, number: int, device: str) -> None:
    """Copies of a queued job that are a little older, for this device."""
    copy = f"""
        INSERT INTO jobs (id, state, device, created_at, {COLUMNS})
        SELECT 'job_' || n || :device, 'queued', :device, created_at - n * interval '1 ms', {COLUMNS}
        FROM jobs, generate_series(1, :number) AS n WHERE id = :id
    """
    with bench.database.session() as session:
        session.execute(text(copy), {"number": number, "device": device, "id": job})


def waiting(bench: Bench, job: str) -> WaitingReason | None:
    with bench.database.session() as session:
        return owned_jobs.waiting_reason(session, owned_jobs.get(session, OWNER, job))


def claim(bench: Bench, *devices: str, version: int = SPEC_VERSION) -> Claim | None:
    with bench.database.session() as session:
        return attempts.claim(session, "w", devices, [version], 60)


def test_a_place_is_exact_until_too_many_jobs_are_before_it(bench: Bench) -> None:
    job = bench.job(device="cpu")
    with bench.database.session() as session:
        workers.register(session, "w", "host", ["cpu"], [SPEC_VERSION])
    add_before(bench, job, MOST_COUNTED - 1, "cpu")
    add_before(bench, job, MOST_COUNTED - 1, "auto")
    # Not counted, however many there are: the worker can't run them.
    add_before(bench, job, MOST_COUNTED + 1, "cuda")
    place = 2 * MOST_COUNTED - 1
    detail = f"number {place:,} in the queue for 1 worker, of which 0 busy"
    assert waiting(bench, job) == WaitingReason("position", place, detail)
    with bench.database.session() as session:
        session.execute(text("UPDATE jobs SET device = 'cpu' WHERE id IN ('job_1cuda', 'job_2cuda')"))
    detail = f"behind at least {place:,} jobs for 1 worker, of which 0 busy"
    assert waiting(bench, job) == WaitingReason("position", place + 1, detail, at_least=True)


def test_a_job_of_more_processes_than_any_worker_runs_has_no_worker(bench: Bench) -> None:
    job = bench.job(device="cpu", devices=8)
    with bench.database.session() as session:
        workers.register(session, "w", "host", ["cpu"], [SPEC_VERSION], {"cpu": 4})
    reason = waiting(bench, job)
    assert reason is not None
    assert reason.reason == "no-worker"
    assert "can run 8 processes of a job on cpu" in reason.detail
    # Behind it, a job that the worker can run is the first.
    behind = waiting(bench, bench.job(device="cpu"))
    assert behind == WaitingReason("starting", 1, "a worker is about to take it")


def test_a_claim_takes_the_oldest_for_any_of_its_devices(bench: Bench) -> None:
    teacher = bench.teacher()
    jobs = [bench.job(teacher=teacher, device=device) for device in ("cpu", "auto", "cuda", "cpu", "auto")]
    taken = [claim(bench, "cpu"), claim(bench, "cpu"), claim(bench, "cuda", "cpu"), claim(bench, "cuda")]
    assert [one and one.job_id for one in taken] == [jobs[0], jobs[1], jobs[2], jobs[4]]
    assert claim(bench, "cuda") is None


def test_where_others_have_locked_all_jobs_for_a_device_one_for_another_is_taken(bench: Bench) -> None:
    teacher = bench.teacher()
    for_cpu, for_any = bench.job(teacher=teacher, device="cpu"), bench.job(teacher=teacher, device="auto")
    with bench.database.session() as other:
        other.execute(select(Job.id).where(Job.id == for_cpu).with_for_update())
        taken = claim(bench, "cpu")
        assert taken is not None
        assert taken.job_id == for_any
        assert claim(bench, "cpu") is None
    assert (taken := claim(bench, "cpu")) is not None
    assert taken.job_id == for_cpu


def test_jobs_that_a_worker_cant_read_dont_hide_the_one_behind_them(bench: Bench) -> None:
    job = bench.job(device="cpu")
    add_before(bench, job, HEAD + 1, "cpu")
    with bench.database.session() as session:
        newer = text("UPDATE jobs SET spec_version = spec_version + 1, owner = 'another' WHERE id <> :id")
        session.execute(newer, {"id": job})
    taken = claim(bench, "cpu")
    assert taken is not None
    assert taken.job_id == job


def hide(bench: Bench, job: str, values: str) -> None:
    """Put more jobs before this one than are looked through, with these values, and a newer one for any device."""
    add_before(bench, job, HEAD + 1, "cuda")
    with bench.database.session() as session:
        session.execute(text(f"UPDATE jobs SET {values} WHERE id <> :id"), {"id": job})
    bench.job(device="auto")


def test_jobs_of_too_many_devices_dont_hide_an_older_job_for_another_device(bench: Bench) -> None:
    job = bench.job(device="cuda")
    hide(bench, job, "devices = 8")
    taken = claim(bench, "cuda")
    assert taken is not None
    assert taken.job_id == job


def test_jobs_of_an_owner_at_the_limit_dont_hide_an_older_job_for_another_device(bench: Bench) -> None:
    job = bench.job(device="cuda")
    hide(bench, job, "owner = 'another'")
    with bench.database.session() as session:
        quotas.replace(session, "another", {"jobs_running": 0})
    taken = claim(bench, "cuda")
    assert taken is not None
    assert taken.job_id == job


FLOOD = 3000
OTHER_OWNERS = 200
OTHER_ROWS = 100
"""What a claim reads beside the queue: quotas, the row that it takes, webhooks; more than enough."""


@pytest.mark.parametrize("values", ["owner = 'flood'", "devices = 8"], ids=["owner at the limit", "too many devices"])
def test_a_claim_reads_a_head_and_one_entry_for_each_owner(bench: Bench, values: str) -> None:
    job = bench.job(device="cpu")
    add_before(bench, job, FLOOD, "cpu")
    with bench.database.session() as session:
        session.execute(text(f"UPDATE jobs SET {values} WHERE id <> :id"), {"id": job})
        quotas.replace(session, "flood", {"jobs_running": 0})
    add_before(bench, bench.job(device="cuda"), OTHER_OWNERS, "auto")
    with bench.database.session() as session:
        # Younger than the first, which is still the oldest that may run.
        others = "UPDATE jobs SET owner = id, device = 'cpu', created_at = now() WHERE device = 'auto'"
        session.execute(text(others))
    taken, rows = claim_and_count_rows(bench, "cpu")
    assert taken is not None
    assert taken.job_id == job
    assert rows < HEAD + OTHER_OWNERS + OTHER_ROWS


def test_behind_a_locked_job_a_claim_does_not_read_the_queue_of_an_owner_at_the_limit(bench: Bench) -> None:
    job = bench.job(device="cpu")
    add_before(bench, job, FLOOD, "cpu")
    first = f"job_{FLOOD}cpu"
    with bench.database.session() as session:
        session.execute(
            text("UPDATE jobs SET owner = 'flood' WHERE id NOT IN (:job, :first)"), {"job": job, "first": first}
        )
        quotas.replace(session, "flood", {"jobs_running": 0})
    with bench.database.session() as other:
        other.execute(select(Job.id).where(Job.id == first).with_for_update())
        taken, rows = claim_and_count_rows(bench, "cpu")
    assert taken is not None
    assert taken.job_id == job
    assert rows < 2 * HEAD + OTHER_ROWS


def test_what_a_running_job_writes_leaves_the_indexes_of_jobs_alone(bench: Bench) -> None:
    bench.job()
    taken = claim(bench, "cpu")
    assert taken is not None
    # As `n_tup_hot_upd`: updates whose new row no index needs to know.
    counted = text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'jobs'")
    for number in range(3):
        with bench.database.session() as session:
            before = session.execute(counted).one()
            attempts.heartbeat(session, taken, 60, float(number))
            progress = {"phase": "lit", "epoch": number, "epochs": 3, "fraction": 0.5}
            attempts.record(session, taken, [], [Metric("lit", number, "loss", 1.0)], progress, None, seconds_left=9.0)
            after = session.execute(counted).one()
        assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2]
