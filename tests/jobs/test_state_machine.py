"""Any order of the ledger's functions, against a model of a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from jobs.database.models import Event as EventRow
from jobs.database.models import Job
from jobs.errors import Conflict, NotFound, Stale
from jobs.housekeeping import reap
from jobs.ledger import attempts, owned_jobs
from jobs.ledger.attempts import Claim, Event, Metric
from lit_spec import SPEC_VERSION, ErrorType, JobError
from lit_spec.states import FINISHED_STATES
from tests.worker.bench import OWNER, Bench

ERROR = JobError(type=ErrorType.TRAINER_CRASHED, detail="the trainer ended")
EXPIRED, LEASE = -1.0, 600.0
ACTIONS = ["heartbeat", "record", "succeed", "fail", "cancelled", "release", "release", "lose", "lose"]


@dataclass
class Model:
    """What a job should be."""

    max_attempts: int
    state: str = "queued"
    attempt: int = 0
    failures: int = 0
    cancel: bool = False
    expired: bool = False
    claims: list[Claim] = field(default_factory=list)
    events: list[str] = field(default_factory=lambda: ["queued"])

    @property
    def finished(self) -> bool:
        return self.state in FINISHED_STATES

    def end(self, state: str) -> None:
        self.state = state
        self.events.append(state)

    def lose(self) -> None:
        self.failures += 1
        self.events.append("lost")
        if self.cancel:
            self.end("cancelled")
        elif self.failures >= self.max_attempts:
            self.end("failed")
        else:
            self.state = "queued"


class Ledger(RuleBasedStateMachine):
    """Rules call the ledger and the model alike.

    Few rules that draw what to do, rather than many: Hypothesis leaves out some of the rules in each run.
    """

    def __init__(self, bench: Bench, teacher: str) -> None:
        super().__init__()
        self.bench = bench
        self.teacher = teacher
        self.models: dict[str, Model] = {}
        self.made: list[str] = []
        self.attempts: dict[str, int] = {}
        self.frozen: dict[str, tuple[Any, ...]] = {}
        with bench.database.session() as session:
            session.execute(delete(Job))
        self.create(max_attempts=2)

    @rule(lease=st.sampled_from([LEASE, EXPIRED]))
    def claim(self, lease: float) -> None:
        with self.bench.database.session() as session:
            claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], lease)
        waiting = [job for job, model in self.models.items() if model.state == "queued"]
        assert (claim.job_id if claim else None) == (waiting[0] if waiting else None)
        if claim is not None:
            model = self.models[claim.job_id]
            model.state, model.expired = "running", lease == EXPIRED
            model.attempt += 1
            model.events.append("claimed")
            model.claims.append(claim)
            assert claim.attempt == model.attempt

    @rule(data=st.data(), action=st.sampled_from(ACTIONS), cancel=st.sampled_from([False, False, True]))
    def worker(self, data: st.DataObject, action: str, cancel: bool) -> None:
        claims = [claim for model in self.models.values() for claim in model.claims[-2:]]
        held = [claim for claim in claims if self.holds(claim)]
        if not claims:
            return
        # Mostly those who hold a job and those from whom someone else has it: there is most to see.
        fenced_off = [claim for claim in claims if claim not in held and self.models[claim.job_id].state == "running"]
        claim = data.draw(st.sampled_from([*held * 3, *fenced_off * 2, *claims]))
        if cancel and claim in held:
            self.cancel(claim.job_id)
        try:
            with self.bench.database.session() as session:
                self.act(session, claim, action)
        except Stale:
            assert claim not in held
        else:
            assert claim in held
            self.expect(self.models[claim.job_id], action)

    def holds(self, claim: Claim) -> bool:
        model = self.models[claim.job_id]
        return model.state == "running" and model.attempt == claim.attempt

    @staticmethod
    def act(session: Any, claim: Claim, name: str) -> None:
        match name:
            case "heartbeat":
                attempts.heartbeat(session, claim, LEASE, 1.0)
            case "record":
                attempts.record(session, claim, [Event("a"), Event("b")], [Metric("lit", 1, "loss", 1.0)], {}, None)
            case "succeed":
                attempts.succeed(session, claim, {}, [])
            case "fail":
                attempts.fail(session, claim, ERROR)
            case "lose":
                attempts.lose(session, claim, ERROR)
            case _:
                getattr(attempts, name)(session, claim)

    @staticmethod
    def expect(model: Model, name: str) -> None:
        match name:
            case "heartbeat":
                model.expired = False
            case "record":
                model.events += ["a", "b"]
            case "lose":
                model.lose()
            case "release" if not model.cancel:
                model.state = "queued"
                model.events.append("released")
            case _:
                model.end({"succeed": "succeeded", "fail": "failed"}.get(name, "cancelled"))

    @rule()
    def housekeeping(self) -> None:
        with self.bench.database.session() as session:
            reaped = reap(session, server_up_for=0)
        expired = {job for job, model in self.models.items() if model.state == "running" and model.expired}
        assert set(reaped) == expired
        for job in expired:
            self.models[job].lose()

    @rule(data=st.data(), action=st.sampled_from(["create", "cancel", "cancel", "delete"]))
    def owner(self, data: st.DataObject, action: str) -> None:
        open_jobs = [job for job, model in self.models.items() if not model.finished]
        # Few at a time, so that much happens to each.
        if not open_jobs or (action == "create" and len(open_jobs) < 3):
            self.create(data.draw(st.integers(1, 2)))
            return
        job = data.draw(st.sampled_from([*open_jobs * 2, *self.made]))
        if action == "delete":
            self.delete(job)
        else:
            self.cancel(job)

    def create(self, max_attempts: int) -> None:
        job = self.bench.job(teacher=self.teacher, max_attempts=max_attempts)
        self.models[job] = Model(max_attempts)
        self.made.append(job)

    def cancel(self, job: str) -> None:
        model = self.models.get(job)
        try:
            self.bench.cancel(job)
        except NotFound:
            assert model is None
            return
        except Conflict:
            assert model is not None
            assert model.state in {"succeeded", "failed"}
            return
        assert model is not None
        assert model.state not in {"succeeded", "failed"}
        if model.state == "queued":
            model.end("cancelled")
        elif model.state == "running" and not model.cancel:
            model.cancel = True
            model.events.append("cancel_requested")

    def delete(self, job: str) -> None:
        model = self.models.get(job)
        try:
            with self.bench.database.session() as session:
                owned_jobs.delete(session, OWNER, job)
        except NotFound:
            assert model is None
        except Conflict:
            assert model is not None
            assert not model.finished
        else:
            assert model is not None
            assert model.finished
            del self.models[job]

    @invariant()
    def ledger_is_as_the_model_says(self) -> None:
        with self.bench.database.session() as session:
            rows = {row.id: row for row in session.execute(select(Job.__table__))}
            events: dict[str, list[tuple[int, str]]] = {}
            for event in session.scalars(select(EventRow).order_by(EventRow.seq)):
                events.setdefault(event.job_id, []).append((event.seq, event.type))
        assert rows.keys() == self.models.keys() == events.keys()
        for job, row in rows.items():
            model = self.models[job]
            assert (row.state, row.attempt, row.failures) == (model.state, model.attempt, model.failures)
            assert events[job] == list(enumerate(model.events, start=1))
            assert row.event_seq == len(model.events)

    @invariant()
    def attempts_grow_terminal_rows_stay_and_only_running_jobs_have_a_lease(self) -> None:
        with self.bench.database.session() as session:
            rows = session.execute(select(Job.__table__)).all()
        for row in rows:
            assert row.attempt >= self.attempts.get(row.id, 0)
            self.attempts[row.id] = row.attempt
            assert (row.lease_expires_at is not None) == (row.state == "running")
            if row.state in FINISHED_STATES:
                assert self.frozen.setdefault(row.id, tuple(row)) == tuple(row)


def test_any_order_of_calls_keeps_the_promises(bench: Bench) -> None:
    teacher = bench.teacher()
    run_state_machine_as_test(
        partial(Ledger, bench, teacher),  # type: ignore[arg-type]
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            # Without shrinking, which takes minutes here: 25 steps can be read as they are.
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
