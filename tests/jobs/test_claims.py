"""Claims and the fence: a job belongs to one attempt at a time, and only that one can change it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from jobs.database.models import EpochMetrics, Job
from jobs.database.models import Event as EventRow
from jobs.errors import Stale
from jobs.ledger import attempts, owned_jobs
from jobs.ledger.attempts import Artifact, Claim, Event, Metric
from jobs.ledger.metrics import EPOCHS_PER_STATEMENT
from lit_spec import SPEC_VERSION, ErrorType, JobError
from lit_spec.states import JobState
from tests.jobs.racing import together, wait_until_blocked
from tests.worker.bench import OWNER, Bench

LEASE = 60.0
ERROR = JobError(type=ErrorType.TRAINER_CRASHED, detail="the trainer ended with signal 9")

FENCED: dict[str, Callable[[Session, Claim], object]] = {
    "heartbeat": lambda session, claim: attempts.heartbeat(session, claim, LEASE, 1.0),
    "record": lambda session, claim: attempts.record(
        session, claim, [Event("epoch")], [Metric("lit", 1, "loss", 0.5)], {"epoch": 1}, "jobs/x/1/checkpoint"
    ),
    "count seconds": lambda session, claim: attempts.count_seconds(session, claim, 2.0),
    "record nothing": lambda session, claim: attempts.record(session, claim, [], [], None, None),
    "succeed": lambda session, claim: attempts.succeed(session, claim, {}, [Artifact("a", "jobs/x/1/a", 1, "00")]),
    "fail": lambda session, claim: attempts.fail(session, claim, ERROR),
    "cancelled": attempts.cancelled,
    "release": attempts.release,
    "lose": lambda session, claim: attempts.lose(session, claim, ERROR),
}


def take(bench: Bench, worker: str = "w", devices: tuple[str, ...] = ("cpu",)) -> Claim:
    with bench.database.session() as session:
        claim = attempts.claim(session, worker, devices, [SPEC_VERSION], LEASE)
    assert claim is not None
    return claim


def do(bench: Bench, name: str, claim: Claim) -> object:
    with bench.database.session() as session:
        return FENCED[name](session, claim)


def types(bench: Bench, job_id: str) -> list[str]:
    with bench.database.session() as session:
        return [event.type for event in owned_jobs.events_after(session, job_id, 0, 1000)]


def everything(bench: Bench, job_id: str) -> list[object]:
    """All columns of a job, its events and metrics."""
    queries = [
        select(Job.__table__).where(Job.id == job_id),
        select(EventRow.__table__).where(EventRow.job_id == job_id).order_by(EventRow.seq),
        select(EpochMetrics.__table__).where(EpochMetrics.job_id == job_id).order_by(EpochMetrics.epoch),
    ]
    with bench.database.session() as session:
        return [tuple(row) for query in queries for row in session.execute(query)]


def test_concurrent_workers_never_get_the_same_job_and_leave_none(bench: Bench) -> None:
    teacher = bench.teacher()
    waiting = [bench.job(teacher=teacher) for _ in range(40)]

    def work(name: str) -> list[str]:
        taken: list[str] = []
        while True:
            with bench.database.session() as session:
                claim = attempts.claim(session, name, ["cpu"], [SPEC_VERSION], LEASE)
            if claim is None:
                return taken
            assert claim.attempt == 1
            taken.append(claim.job_id)

    shares = together([partial(work, f"worker-{i}") for i in range(8)])
    # A worker may end early where the rest was locked, but between them they leave nothing and take nothing twice.
    assert sorted(job for share in shares for job in share) == sorted(waiting)
    for i, share in enumerate(shares):
        assert all(bench.row(job).worker_id == f"worker-{i}" for job in share)


def test_the_oldest_job_goes_first_and_a_locked_one_holds_nobody_up(bench: Bench) -> None:
    teacher = bench.teacher()
    first, second, third = (bench.job(teacher=teacher) for _ in range(3))
    with bench.database.session() as open_claim:
        held = attempts.claim(open_claim, "slow", ["cpu"], [SPEC_VERSION], LEASE)
        assert held is not None
        assert held.job_id == first
        assert take(bench).job_id == second
        open_claim.rollback()
    assert [take(bench).job_id for _ in range(2)] == [first, third]


def test_a_worker_gets_only_what_it_can_run_and_auto_prefers_cuda(bench: Bench) -> None:
    teacher = bench.teacher()
    on_cuda, auto, on_cpu = (bench.job(teacher=teacher, device=device) for device in ("cuda", "auto", "cpu"))
    with bench.database.session() as session:
        assert attempts.claim(session, "older", ["cpu", "cuda"], [SPEC_VERSION - 1], LEASE) is None

    claims = [take(bench, devices=("cpu",)) for _ in range(2)]
    assert [(claim.job_id, claim.device) for claim in claims] == [(auto, "cpu"), (on_cpu, "cpu")]
    with bench.database.session() as session:
        assert attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], LEASE) is None
    do(bench, "release", claims[0])
    claims = [take(bench, devices=("cpu", "cuda")) for _ in range(2)]
    assert [(claim.job_id, claim.device) for claim in claims] == [(on_cuda, "cuda"), (auto, "cuda")]
    assert bench.row(auto).worker_device == "cuda"


def test_a_specification_that_cannot_be_read_ends_its_own_job_alone(bench: Bench) -> None:
    teacher = bench.teacher()
    first, second, good = (bench.job(teacher=teacher) for _ in range(3))
    with bench.database.session() as session:
        for job, wrong in ((first, {"beta": 2}), (second, {"of_tomorrow": 1})):
            session.execute(update(Job).where(Job.id == job).values(spec=Job.spec.concat(wrong)))
    assert take(bench).job_id == good
    for job, field in ((first, "beta: "), (second, "of_tomorrow: ")):
        row = bench.row(job)
        assert (row.state, row.attempt, row.worker_id) == (JobState.FAILED, 0, None)
        assert row.error is not None
        assert row.error["type"] == "bad-specification"
        assert field in row.error["detail"]
        assert types(bench, job) == ["queued", "failed"]


@pytest.mark.parametrize("situation", ["old attempt", "queued", "ended", "deleted"])
def test_whoever_holds_the_job_no_more_is_stale_and_changes_nothing(bench: Bench, situation: str) -> None:
    job = bench.job()
    old = take(bench)
    do(bench, "record", old)
    if situation == "ended":
        do(bench, "succeed", old)
    else:
        do(bench, "release", old)
    if situation == "old attempt":
        assert take(bench).attempt == old.attempt + 1
    if situation == "deleted":
        bench.cancel(job)
        with bench.database.session() as session:
            owned_jobs.delete(session, OWNER, job)
    before = everything(bench, job)
    for name, action in FENCED.items():
        # The transaction is committed, so whatever was written in spite of the error would show.
        with bench.database.session() as session, pytest.raises(Stale):
            action(session, old)
        assert everything(bench, job) == before, name


def test_failures_are_counted_up_to_max_attempts(bench: Bench) -> None:
    job = bench.job(max_attempts=2)
    do(bench, "lose", take(bench))
    row = bench.row(job)
    assert (row.state, row.failures, row.error, row.worker_id) == (JobState.QUEUED, 1, None, None)
    do(bench, "lose", take(bench))
    row = bench.row(job)
    assert (row.state, row.failures, row.attempt) == (JobState.FAILED, 2, 2)
    assert row.error == ERROR.model_dump(mode="json")
    assert types(bench, job) == ["queued", "claimed", "lost", "claimed", "lost", "failed"]


def test_a_drain_costs_no_failure_and_the_next_attempt_resumes(bench: Bench) -> None:
    job = bench.job(max_attempts=1)
    started = set()
    for attempt in range(1, 5):
        claim = take(bench)
        assert (claim.attempt, claim.seconds_used) == (attempt, attempt - 1.0)
        assert claim.checkpoint == (f"jobs/{job}/{attempt - 1}/checkpoint" if attempt > 1 else None)
        with bench.database.session() as session:
            attempts.record(session, claim, [], [], {"epoch": attempt}, f"jobs/{job}/{attempt}/checkpoint")
            attempts.heartbeat(session, claim, LEASE, float(attempt))
        do(bench, "record nothing", claim)
        started.add(bench.row(job).started_at)
        do(bench, "release", claim)
    row = bench.row(job)
    assert (row.state, row.failures, row.progress) == (JobState.QUEUED, 0, {"epoch": 4})
    assert len(started) == 1


def test_an_estimate_ends_with_its_attempt_and_a_checkpoint_keeps_what_was_done(bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)
    nothing = {"phase": "claimed", "epoch": 0, "epochs": 0, "step": None, "steps": None, "fraction": 0.0}
    assert (bench.row(job).progress, bench.row(job).estimated_finish, claim.fraction) == (nothing, None, 0.0)
    told = {"phase": "lit", "epoch": 1, "epochs": 2, "step": 3, "steps": 9, "fraction": 0.4}
    with bench.database.session() as session:
        attempts.record(session, claim, [], [], told, None, seconds_left=600)
        left = session.scalars(select(Job.estimated_finish - func.clock_timestamp())).one()
    assert 500 < left.total_seconds() <= 600
    before = bench.row(job)
    with bench.database.session() as session:
        attempts.record(session, claim, [], [], None, f"jobs/{job}/1/checkpoint")
    assert (bench.row(job).progress, bench.row(job).estimated_finish) == (told, before.estimated_finish)
    assert types(bench, job) == ["queued", "claimed"], "progress is no event"
    do(bench, "release", claim)
    assert (bench.row(job).progress, bench.row(job).estimated_finish) == (told, None)
    assert take(bench).fraction == 0.4
    assert bench.row(job).progress == {**nothing, "fraction": 0.4}


def test_a_cancelled_job_does_not_go_back_to_the_queue(bench: Bench) -> None:
    teacher = bench.teacher()
    for ending, failures in (("release", 0), ("lose", 1), ("cancelled", 0)):
        job = bench.job(teacher=teacher)
        claim = take(bench)
        assert do(bench, "heartbeat", claim) == attempts.Heartbeat(cancel_requested=False)
        bench.cancel(job)
        assert do(bench, "heartbeat", claim) == attempts.Heartbeat(cancel_requested=True)
        do(bench, ending, claim)
        row = bench.row(job)
        assert (row.state, row.failures) == (JobState.CANCELLED, failures), ending
        assert types(bench, job)[-1] == "cancelled"


@pytest.mark.parametrize("ending", ["release", "lose"])
def test_a_cancel_on_its_way_is_waited_for_and_obeyed(bench: Bench, ending: str) -> None:
    job = bench.job()
    claim = take(bench)
    worker = threading.Thread(target=do, args=(bench, ending, claim))
    with bench.database.session() as session:
        owned_jobs.request_cancel(session, OWNER, job)
        worker.start()
        wait_until_blocked(bench.database)
    worker.join(20)
    assert bench.row(job).state == JobState.CANCELLED


def test_a_heartbeat_renews_the_lease_and_is_no_change_that_a_reader_sees(bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)
    before = bench.row(job)
    do(bench, "heartbeat", claim)
    after = bench.row(job)
    assert before.lease_expires_at is not None
    assert after.lease_expires_at is not None
    assert after.lease_expires_at > before.lease_expires_at
    assert (after.version, after.event_seq) == (before.version, before.event_seq)
    do(bench, "record nothing", claim)
    assert bench.row(job).version == after.version + 1


def test_news_sent_twice_are_recorded_once(bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)

    def send(batch: str, epoch: int) -> None:
        news = [Event("epoch", {"epoch": epoch})], [Metric("lit", epoch, "loss", 1.0)], {"epoch": epoch}, None
        with bench.database.session() as session:
            attempts.record(session, claim, *news, batch)

    send("first", 1)
    before = everything(bench, job)
    send("first", 1)
    assert everything(bench, job) == before
    send("second", 2)
    assert [event["epoch"] for event in bench.events(job, "epoch")] == [1, 2]
    together([partial(send, "third", 3)] * 2)
    assert [event["epoch"] for event in bench.events(job, "epoch")] == [1, 2, 3]
    assert bench.row(job).event_seq == 5


def test_a_redone_epoch_replaces_its_metrics(bench: Bench) -> None:
    job = bench.job()
    claim = take(bench)
    many = [Metric("lit", epoch, "loss", float(epoch)) for epoch in range(EPOCHS_PER_STATEMENT + 1)]
    with bench.database.session() as session:
        attempts.record(session, claim, [], [Metric("lit", 7, "loss", 0.25), *many], None, None)
    assert bench.metrics(job) == {("lit", metric.epoch, "loss"): metric.value for metric in many}
    do(bench, "release", claim)
    again = take(bench)
    redone = [Metric("lit", 7, "loss", 0.5), Metric("fine_tune", 7, "loss", 3.0), Metric("lit", 7, "loss", 0.75)]
    with bench.database.session() as session:
        attempts.record(session, again, [], redone, None, None)
    numbers = bench.metrics(job)
    # Within one call, too, the last word counts.
    assert (numbers["lit", 7, "loss"], numbers["fine_tune", 7, "loss"], len(numbers)) == (0.75, 3.0, len(many) + 1)
    with bench.database.session() as session:
        rows = session.execute(select(EpochMetrics.epoch).where(EpochMetrics.attempt == 2)).all()
    assert len(rows) == 2


def test_events_are_numbered_without_gaps_and_a_reader_misses_none(bench: Bench) -> None:
    teacher = bench.teacher()
    for _ in range(5):
        job = bench.job(teacher=teacher)
        claim = take(bench)
        done = threading.Event()

        def write(claim: Claim = claim) -> None:
            for _ in range(10):
                with bench.database.session() as session:
                    attempts.record(session, claim, [Event("epoch"), Event("log")], [], None, None)

        def read(job: str = job, done: threading.Event = done) -> list[int]:
            seen: list[int] = []
            last_look = False
            while not last_look:
                last_look = done.is_set()
                with bench.database.session() as session:
                    seen += [
                        event.seq for event in owned_jobs.events_after(session, job, seen[-1] if seen else 0, 1000)
                    ]
            return seen

        readers: list[list[int]] = []
        reader = threading.Thread(target=lambda read=read, readers=readers: readers.append(read()))
        reader.start()
        writers: list[Callable[[], None]] = [write, write, write, partial(bench.cancel, job)]
        together(writers)
        done.set()
        reader.join(20)
        count = 1 + 1 + 3 * 10 * 2 + 1
        with bench.database.session() as session:
            events = owned_jobs.events_after(session, job, 0, 1000)
        assert [event.seq for event in events] == list(range(1, count + 1))
        assert bench.row(job).event_seq == count
        assert readers == [list(range(1, count + 1))]
        assert types(bench, job).count("cancel_requested") == 1
        do(bench, "cancelled", claim)
