"""Seats: any order of claims, joins, heartbeats and ends, and who may run what."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select, text

from jobs.database.models import Job, Seat
from jobs.errors import Stale
from jobs.housekeeping import queues_with_work, reap
from jobs.ledger import attempts, seats
from jobs.ledger.attempts import Claim
from jobs.ledger.seats import TakenSeat
from lit_spec import SPEC_VERSION, ErrorType, JobError
from tests.worker.bench import Bench

ERROR = JobError(type=ErrorType.TRAINER_CRASHED, detail="the trainer ended")
EXPIRED, LEASE = -1.0, 600.0
VERSIONS = [SPEC_VERSION]


def take_job(bench: Bench, worker: str = "host", processes: dict[str, int] | None = None) -> Claim | None:
    with bench.database.session() as session:
        return attempts.claim(
            session, worker, ["cpu"], VERSIONS, LEASE, processes=processes or {"cpu": 4}, endpoint="host:1"
        )


def take_seat(
    bench: Bench, worker: str = "guest", processes: dict[str, int] | None = None, lease: float = LEASE
) -> TakenSeat | None:
    with bench.database.session() as session:
        joinable = seats.joinable(["cpu"], processes or {"cpu": 4}, VERSIONS)
        return seats.take(session, worker, joinable, lease)


def test_a_job_of_several_processes_is_claimed_only_by_a_worker_that_can_run_them(bench: Bench) -> None:
    job = bench.job(devices=3)
    assert take_job(bench, processes={"cpu": 2}) is None
    claim = take_job(bench, processes={"cpu": 3})
    assert claim is not None
    assert (claim.job_id, claim.endpoint) == (job, None)


def test_a_job_of_several_nodes_offers_a_seat_for_each_other_node(bench: Bench) -> None:
    job = bench.job(nodes=3, devices=2)
    assert take_seat(bench) is None
    claim = take_job(bench)
    assert claim is not None
    assert claim.endpoint == "host:1"
    with bench.database.session() as session:
        assert queues_with_work(session) == ["lit.cpu"]
    assert take_seat(bench, processes={"cpu": 1}) is None
    first, second = take_seat(bench, "a"), take_seat(bench, "b")
    assert first is not None
    assert second is not None
    assert (first.node, second.node, first.attempt, first.endpoint) == (1, 2, 1, "host:1")
    assert take_seat(bench) is None
    with bench.database.session() as session:
        assert seats.still_open(session, job, claim.attempt) == 0
        assert queues_with_work(session) == []
    assert [event["worker"] for event in bench.events(job, "joined")] == ["a", "b"]


def test_of_two_jobs_that_wait_for_each_other_the_younger_gives_way(bench: Bench) -> None:
    older, younger = bench.job(nodes=2), bench.job(nodes=2)
    assert take_job(bench, "a") is not None
    assert take_job(bench, "b") is not None
    joinable = seats.joinable(["cpu"], {"cpu": 1}, VERSIONS)
    with bench.database.session() as session:
        waits = {job: seats.an_older_one_waits(session, job, joinable) for job in (older, younger)}
    assert waits == {older: False, younger: True}


def test_a_worker_joins_only_on_the_device_that_node_0_has_chosen(bench: Bench) -> None:
    job = bench.job(device="auto", nodes=2, devices=4)
    claimed_for_cuda = text("UPDATE jobs SET worker_device = 'cuda' WHERE id = :id")
    assert take_job(bench) is not None
    with bench.database.session() as session:
        session.execute(claimed_for_cuda, {"id": job})
        few = seats.joinable(["cpu", "cuda"], {"cpu": 4, "cuda": 1}, VERSIONS)
        assert seats.take(session, "guest", few, LEASE) is None
        enough = seats.joinable(["cuda"], {"cuda": 4}, VERSIONS)
        assert seats.take(session, "guest", seats.joinable(["cuda"], {"cuda": 4}, VERSIONS, [job]), LEASE) is None
        assert seats.take(session, "guest", enough, LEASE) is not None


@pytest.mark.parametrize("end", ["lose", "release", "succeed", "cancelled", "fail"])
def test_when_the_attempt_ends_its_seats_are_gone(bench: Bench, end: str) -> None:
    bench.job(nodes=2)
    claim, seat = take_job(bench), take_seat(bench)
    assert claim is not None
    assert seat is not None
    with bench.database.session() as session:
        more: dict[str, tuple[Any, ...]] = {"lose": (ERROR,), "fail": (ERROR,), "succeed": ({}, [])}
        getattr(attempts, end)(session, claim, *more.get(end, ()))
    with pytest.raises(Stale), bench.database.session() as session:
        seats.renew(session, seat, LEASE)
    with pytest.raises(Stale), bench.database.session() as session:
        seats.still_open(session, claim.job_id, claim.attempt)


@dataclass
class Model:
    """What a job of three nodes should be."""

    state: str = "queued"
    attempt: int = 0
    host_expired: bool = False
    taken: dict[int, str] = field(default_factory=dict)
    """By node: held, expired or left."""


class Joined(RuleBasedStateMachine):
    """Rules call the ledger and the model alike."""

    NODES = 3

    def __init__(self, bench: Bench, teacher: str) -> None:
        super().__init__()
        self.bench = bench
        with bench.database.session() as session:
            session.execute(delete(Job))
        self.job = bench.job(teacher=teacher, nodes=self.NODES, max_attempts=20)
        self.model = Model()
        self.claims: list[Claim] = []
        self.seats: list[TakenSeat] = []

    def requeue(self) -> None:
        self.model.state, self.model.taken = "queued", {}

    @rule()
    def claim(self) -> None:
        claim = take_job(self.bench)
        assert (claim is not None) == (self.model.state == "queued")
        if claim is not None:
            self.model.state, self.model.taken = "running", {}
            self.model.attempt += 1
            self.claims.append(claim)

    @rule(lease=st.sampled_from([LEASE, LEASE, EXPIRED]))
    def join(self, lease: float) -> None:
        seat = take_seat(self.bench, lease=lease)
        free = [node for node in range(1, self.NODES) if node not in self.model.taken]
        assert (seat is not None) == (self.model.state == "running" and bool(free))
        if seat is not None:
            assert (seat.node, seat.attempt) == (free[0], self.model.attempt)
            self.model.taken[seat.node] = "expired" if lease == EXPIRED else "held"
            self.seats.append(seat)

    def holds(self, seat: TakenSeat) -> bool:
        return self.model.state == "running" and seat.attempt == self.model.attempt

    @rule(data=st.data(), action=st.sampled_from(["renew", "renew", "leave", "lose"]))
    def guest(self, data: st.DataObject, action: str) -> None:
        if not self.seats:
            return
        seat = data.draw(st.sampled_from(self.seats[-4:]))
        held = self.holds(seat)
        try:
            with self.bench.database.session() as session:
                match action:
                    case "renew":
                        seats.renew(session, seat, LEASE)
                    case "leave":
                        seats.leave(session, seat)
                    case _:
                        attempts.lose(session, self.claim_of(seat), ERROR)
        except Stale:
            assert not held
            return
        assert held
        if action == "lose":
            self.requeue()
        else:
            self.model.taken[seat.node] = "held" if action == "renew" else "left"

    def claim_of(self, seat: TakenSeat) -> Claim:
        return next(claim for claim in self.claims if claim.attempt == seat.attempt)

    @rule(action=st.sampled_from(["heartbeat", "heartbeat", "lose", "release"]))
    def host(self, action: str) -> None:
        if not self.claims:
            return
        claim = self.claims[-1]
        running = self.model.state == "running"
        try:
            with self.bench.database.session() as session:
                if action == "heartbeat":
                    attempts.heartbeat(session, claim, LEASE, 1.0)
                elif action == "lose":
                    attempts.lose(session, claim, ERROR)
                else:
                    attempts.release(session, claim)
        except Stale:
            assert not running
            return
        assert running
        if action != "heartbeat":
            self.requeue()

    @rule()
    def housekeeping(self) -> None:
        with self.bench.database.session() as session:
            reaped = reap(session, server_up_for=0)
        wanted = self.model.state == "running" and "expired" in self.model.taken.values()
        assert reaped == ([self.job] if wanted else [])
        if wanted:
            self.requeue()

    @invariant()
    def seats_are_as_the_model_says(self) -> None:
        with self.bench.database.session() as session:
            rows = session.scalars(select(Seat).order_by(Seat.node)).all()
            job = session.scalars(select(Job)).one()
            assert job.attempt == self.model.attempt
            if job.state in {"failed", "cancelled"}:
                self.model.state = job.state
            assert job.state == self.model.state
            if self.model.state != "running":
                assert rows == []
                return
            assert [row.node for row in rows] == list(range(1, self.NODES))
            for row in rows:
                assert row.attempt == self.model.attempt
                assert (row.worker_id is not None) == (row.node in self.model.taken)
                has_lease = self.model.taken.get(row.node) in {"held", "expired"}
                assert (row.lease_expires_at is not None) == has_lease


def test_any_order_of_calls_keeps_the_seats_of_one_attempt(bench: Bench) -> None:
    run_state_machine_as_test(
        partial(Joined, bench, bench.teacher()),  # type: ignore[arg-type]
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
