"""Studies in the ledger: advanced by anyone, any number of times, and nothing lost in between."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from jobs.database.models import EpochMetrics, Event, Job, Study
from jobs.errors import Conflict, NotFound
from jobs.housekeeping import Housekeeper
from jobs.ledger import attempts, owned_jobs, uploads, workers
from jobs.ledger.attempts import Claim
from jobs.ledger.idempotency import IdempotentRequest, find_job, find_study
from jobs.studies import studies
from jobs.studies.advance import QUEUED_PER_WORKER, due
from jobs.studies.trial_rows import read_progress
from lit_spec import SPEC_VERSION
from lit_spec.requests.plan import PlanOptions
from lit_spec.states import FINISHED_STATES, JobState
from tests.jobs.racing import together
from tests.jobs.study_bench import (
    fail,
    look,
    make_study,
    states,
    study_row,
    succeed,
    succeed_with,
    take,
    tell,
    trials,
    work,
)
from tests.jobs.study_specs import make_plan
from tests.worker.bench import OWNER, Bench, child

TWO_ARMS = {"methods": ["lit", "kd"], "seeds": [0, 1]}


def keep_house(bench: Bench) -> list[str]:
    """The wakeups of one round."""
    wakeups: list[str] = []
    assert Housekeeper(bench.database, wakeups.append, bench.settings, bench.storage).keep_ledger()
    return wakeups


def cancel(bench: Bench, study_id: str) -> Study:
    with bench.database.session() as session:
        return studies.request_cancel(session, OWNER, study_id)


def resume(bench: Bench, study_id: str) -> None:
    with bench.database.session() as session:
        studies.resume(session, OWNER, study_id)


def test_a_study_is_made_with_its_first_trials(bench: Bench) -> None:
    study = make_study(bench, "compare", {"name": "a trial", "tags": ["x"]}, name="mine", tags=["t"], **TWO_ARMS)
    row = study_row(bench, study)
    assert (row.state, row.kind, row.name, row.tags, row.planned, row.round) == (
        "running",
        "compare",
        "mine",
        ["t"],
        4,
        1,
    )
    jobs = trials(bench, study)
    assert [job.trial for job in jobs] == [
        {"arm": "lit", "seed": 0},
        {"arm": "kd", "seed": 0},
        {"arm": "lit", "seed": 1},
        {"arm": "kd", "seed": 1},
    ]
    assert [(job.spec["method"], job.spec["seed"]) for job in jobs] == [("lit", 0), ("kd", 0), ("lit", 1), ("kd", 1)]
    assert {(job.name, *job.tags, job.state) for job in jobs} == {("a trial", "x", "queued")}
    with bench.database.session() as session:
        assert len(owned_jobs.list_page(session, OWNER, study_id=study)) == 4
        assert owned_jobs.list_page(session, OWNER, study_id="study_other") == []


def test_a_plan_reads_the_result_of_its_job_and_keeps_it(bench: Bench) -> None:
    study = make_study(bench, "plan", {"dataset": {"builtin": "digits"}}, students=3)
    claim = take(bench)
    assert claim.spec.student.plan == PlanOptions(students=3)
    planned = make_plan([[[0, 1], [0, 1]], [[0], [0]]])
    succeed_with(bench, claim, planned.as_json())
    look(bench, study)
    row = study_row(bench, study)
    assert row.state == "succeeded"
    assert row.result is not None
    assert (row.result["choice"], row.result["best_job"]) == ({"front": [10, 6]}, claim.job_id)
    assert [line["kept"] for line in row.result["table"]["rows"]] == [[[0, 1], [0, 1]], [[0], [0]]]


def test_advancing_again_changes_nothing(bench: Bench) -> None:
    study = make_study(bench, "compare", **TWO_ARMS)
    before = study_row(bench, study).version
    assert look(bench, study) == []
    assert look(bench, "study_gone") == []
    assert len(trials(bench, study)) == 4
    assert study_row(bench, study).version == before


def test_the_ledger_itself_refuses_a_trial_twice(bench: Bench) -> None:
    study = make_study(bench, "compare", **TWO_ARMS)
    copy = text(
        "INSERT INTO jobs (id, owner, tags, state, device, spec_version, request, spec, max_attempts, study_id, "
        "trial, trial_round) SELECT 'job_copy', owner, tags, state, device, spec_version, request, spec, max_attempts, "
        "study_id, trial, trial_round FROM jobs WHERE study_id = :study LIMIT 1"
    )
    with pytest.raises(IntegrityError, match="trial_round"), bench.database.session() as session:
        session.execute(copy, {"study": study})


def test_racing_advancers_make_each_trial_once(bench: Bench) -> None:
    study = make_study(bench, "search", taus=[1, 2, 4], alphas=[0.5, 1], betas=[0.5])
    for validation in (90, 91, 92):
        succeed(bench, take(bench), validation)
    made = together([partial(look, bench, study) for _ in range(6)])
    # One of them found the next stage to be made; the winner of the first is one of its two points.
    assert sorted(map(len, made)) == [0, 0, 0, 0, 0, 1]
    assert [job.trial for job in trials(bench, study)][3:] == [{"method": "kd", "tau": 4.0, "alpha": 1.0, "seed": 0}]


def test_a_study_runs_to_its_end(bench: Bench) -> None:
    study = make_study(bench, "search", taus=[1, 2], alphas=[0.25, 0.5], betas=[0.5, 1])
    work(bench, study, lambda key: 90 + key["tau"] - key["alpha"] - key.get("beta", 0))
    row = study_row(bench, study)
    assert row.state == "succeeded"
    assert row.result is not None
    assert row.result["choice"] == {"tau": 2.0, "alpha": 0.25, "beta": 0.5}
    best = bench.row(row.result["best_job"])
    assert best.trial == {"method": "lit", "tau": 2.0, "alpha": 0.25, "beta": 0.5, "seed": 0}
    assert [(line["stage"], line["chosen"]) for line in row.result["table"]["rows"]] == [
        ("tau", False),
        ("tau", True),
        ("alpha", True),
        ("alpha", False),
        ("beta", True),
        ("beta", False),
    ]
    assert row.result["table"]["teacher"] == {"validation": 98, "test": 98, "parameters": 3000, "latency_ms": 3.0}
    assert (row.finished_at is not None, row.error) == (True, None)
    # A later look finds nothing to do.
    assert look(bench, study) == []


def test_a_worker_that_dies_after_its_trial_ended_loses_nothing(bench: Bench) -> None:
    study = make_study(bench, "search", taus=[1, 2], alphas=[0.5], betas=[0.5])
    succeed(bench, take(bench), 90)
    with bench.database.session() as session:
        assert due(session) == [study]
    keep_house(bench)
    with bench.database.session() as session:
        # Seen, and one trial still waits: there is nothing to do.
        assert due(session) == []
    succeed(bench, take(bench), 91)
    assert [job.trial for job in trials(bench, study) if job.state == "queued"] == []
    # Workers hear of what was made.
    assert keep_house(bench) == ["lit.cpu", "lit.cpu"]
    succeed(bench, take(bench), 95)
    keep_house(bench)
    assert study_row(bench, study).state == "succeeded"


def test_a_worker_goes_on_with_a_study_until_it_has_ended(bench: Bench) -> None:
    study = make_study(bench, "search", taus=[1, 2], alphas=[0.5, 1], betas=[0.5])
    wakeups: list[str] = []
    with bench.supervisor(child("succeed"), send_wakeup=wakeups.append) as supervisor:
        # One call: each trial's end makes the next ones, which the same worker then finds.
        assert supervisor.work() == 4
    assert study_row(bench, study).state == "succeeded"
    # One wake-up for each trial that was made on the way, so that other workers come as well.
    assert wakeups == ["lit.cpu", "lit.cpu"]


def test_a_result_that_tells_nothing_is_no_success(bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit"])
    claim = take(bench)
    with bench.database.session() as session:
        attempts.succeed(session, claim, {"accepted": None}, [])
    keep_house(bench)
    row = study_row(bench, study)
    assert (row.state, states(bench, study)) == ("failed", ["succeeded"])
    assert row.error is not None
    assert row.error["type"] == "no-result"


def test_what_a_newer_version_refuses_fails_the_study_and_stops_its_trials(bench: Bench) -> None:
    study = make_study(bench, "search", taus=[1, 2], alphas=[0.5], betas=[0.5])
    running = take(bench)
    with bench.database.session() as session:
        # As if the family no longer had the student's depth.
        no_students = text("UPDATE studies SET spec = jsonb_set(spec, '{inspection,students}', '[]') WHERE id = :id")
        session.execute(no_students, {"id": study})
        session.execute(delete_rows(Job).where(Job.study_id == study, Job.state == JobState.QUEUED))
    look(bench, study)
    assert bench.row(running.job_id).cancel_requested_at is not None
    assert study_row(bench, study).state == "running"
    with bench.database.session() as session:
        attempts.cancelled(session, running)
    look(bench, study)
    row = study_row(bench, study)
    assert row.state == "failed"
    assert row.error is not None
    assert (row.error["type"], "student.depth" in row.error["detail"]) == ("outdated", True)


def test_housekeeping_goes_on_after_a_study_that_can_not(bench: Bench) -> None:
    broken, good = (make_study(bench, "compare", methods=["lit"]) for _ in range(2))
    with bench.database.session() as session:
        session.execute(update(Job).where(Job.study_id == broken).values(trial={"nonsense": True}))
    for _ in range(2):
        succeed(bench, take(bench), 95)
    keep_house(bench)
    assert study_row(bench, good).state == "succeeded"
    assert study_row(bench, broken).state == "running"


def test_a_few_trials_wait_for_each_live_worker(bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit"], seeds=list(range(1000)))
    assert len(trials(bench, study)) == QUEUED_PER_WORKER
    take(bench)
    look(bench, study)
    assert states(bench, study).count("queued") == QUEUED_PER_WORKER
    with bench.database.session() as session:
        for name in ("a", "b"):
            workers.register(session, name, "host", ["cpu"], [SPEC_VERSION])
    look(bench, study)
    assert states(bench, study).count("queued") == 2 * QUEUED_PER_WORKER
    for _ in range(2 * QUEUED_PER_WORKER):
        take(bench)
    # All run, and more workers may have come: housekeeping looks even though nothing has ended.
    keep_house(bench)
    assert states(bench, study).count("queued") == 2 * QUEUED_PER_WORKER


def test_cancelling_ends_what_waits_and_asks_what_runs(bench: Bench) -> None:
    study = make_study(bench, "compare", **TWO_ARMS)
    done, running = take(bench), take(bench)
    succeed(bench, done, 95)
    row = cancel(bench, study)
    assert (row.state, row.cancel_requested_at is not None) == ("running", True)
    assert sorted(states(bench, study)) == ["cancelled", "cancelled", "running", "succeeded"]
    with bench.database.session() as session:
        assert attempts.heartbeat(session, running, 60, 1.0).cancel_requested
        attempts.cancelled(session, running)
    keep_house(bench)
    row = study_row(bench, study)
    assert row.state == "cancelled"
    assert row.result is not None
    assert row.result["table"]["rows"][0]["succeeded"] == 1
    assert cancel(bench, study).state == "cancelled"
    assert look(bench, study) == []
    with bench.database.session() as session:
        found = read_progress(session, [row])[study]
    assert (found.succeeded, found.cancelled, found.stopped) == (1, 3, 0)


def test_a_study_without_running_trials_is_cancelled_at_once(bench: Bench) -> None:
    study = make_study(bench, "compare", **TWO_ARMS)
    assert cancel(bench, study).state == "cancelled"
    assert set(states(bench, study)) == {"cancelled"}


def test_a_resumed_study_goes_on_from_what_is_there(bench: Bench) -> None:
    study = make_study(bench, "search", taus=[1, 2], alphas=[0.5], betas=[0.5])
    first = take(bench)
    succeed(bench, first, 95)
    cancel(bench, study)
    before = {job.id: (job.state, job.version) for job in trials(bench, study)}
    resume(bench, study)
    jobs = trials(bench, study)
    # What ended stays as it was; the cancelled trial is a new job.
    assert {job.id: (job.state, job.version) for job in jobs if job.id in before} == before
    [again] = [job for job in jobs if job.id not in before]
    assert (again.trial, again.trial_round, again.state) == (
        {"method": "kd", "tau": 2.0, "alpha": 0.5, "seed": 0},
        2,
        "queued",
    )
    with bench.database.session() as session:
        found = read_progress(session, [study_row(bench, study)])[study]
    assert (found.succeeded, found.queued, found.cancelled) == (1, 1, 0)
    work(bench, study, lambda key: 90)
    row = study_row(bench, study)
    assert row.state == "succeeded"
    assert row.result is not None
    assert row.result["choice"]["tau"] == 1.0


def test_a_failed_study_says_why_and_can_be_resumed(bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit"], seeds=[0, 1])
    succeed(bench, take(bench), 95)
    fail(bench, take(bench))
    look(bench, study)
    row = study_row(bench, study)
    assert (row.state, row.error is not None and row.error["type"]) == ("failed", "no-result")
    resume(bench, study)
    row = study_row(bench, study)
    assert (row.state, row.error, row.result, row.finished_at) == ("running", None, None, None)
    claim = take(bench)
    assert bench.row(claim.job_id).trial == {"arm": "lit", "seed": 1}
    succeed(bench, claim, 96)
    look(bench, study)
    assert study_row(bench, study).state == "succeeded"


def test_what_can_not_be_resumed_cancelled_or_deleted(bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit"])
    refused = [
        (partial(resume, bench, study), "study-not-finished"),
        (partial(delete, bench, study), "study-not-finished"),
    ]
    succeed(bench, take(bench), 95)
    for action, type in refused:
        with pytest.raises(Conflict) as conflict:
            action()
        assert conflict.value.type == type
    look(bench, study)
    for action in (partial(resume, bench, study), partial(cancel, bench, study)):
        with pytest.raises(Conflict) as conflict:
            action()
        assert conflict.value.type == "study-finished"
    for action in (partial(resume, bench, "study_x"), partial(cancel, bench, "study_x"), partial(delete, bench, "x")):
        with pytest.raises(NotFound):
            action()


def delete(bench: Bench, study_id: str) -> list[str]:
    with bench.database.session() as session:
        return studies.delete(session, OWNER, study_id)


def test_deleting_a_study_leaves_nothing(bench: Bench) -> None:
    study = make_study(bench, "compare", key=IdempotentRequest("key", "hash"), **TWO_ARMS)
    claim = take(bench)
    tell(bench, claim, 50)
    succeed(bench, claim, 95)
    # While it runs its trials stay, as they would only be made again.
    with bench.database.session() as session, pytest.raises(Conflict) as conflict:
        owned_jobs.delete(session, OWNER, claim.job_id)
    assert conflict.value.type == "study-not-finished"
    cancel(bench, study)
    prefixes = delete(bench, study)
    assert len(prefixes) == 4
    assert f"jobs/{claim.job_id}/" in prefixes
    with bench.database.session() as session:
        for table in (Job, Study, EpochMetrics, Event):
            assert session.execute(select(func.count()).select_from(table)).scalar_one() == 0
        assert find_study(session, OWNER, IdempotentRequest("key", "hash")) is None


def test_an_idempotency_key_makes_one_study(bench: Bench) -> None:
    teacher = bench.teacher()
    one = partial(make_study, bench, "compare", methods=["lit"], teacher=teacher, key=IdempotentRequest("key", "hash"))
    assert len(set(together([one] * 4))) == 1
    with pytest.raises(Conflict) as conflict:
        make_study(bench, "compare", methods=["kd"], teacher=teacher, key=IdempotentRequest("key", "another"))
    assert conflict.value.type == "idempotency-key-reused"
    with bench.database.session() as session, pytest.raises(Conflict):
        find_job(session, OWNER, IdempotentRequest("key", "a job's hash"))


def test_uploads_of_a_running_study_can_not_be_deleted(bench: Bench) -> None:
    teacher = bench.teacher()
    study = make_study(bench, "search", teacher=teacher, taus=[1, 2], alphas=[0.5], betas=[0.5])
    for validation in (90, 91):
        succeed(bench, take(bench), validation)
    # Between two stages no job needs it, but the study does.
    with bench.database.session() as session:
        live = select(Job.id).where(Job.state.not_in(FINISHED_STATES))
        assert session.scalars(live).all() == []
        with pytest.raises(Conflict, match=study) as conflict:
            uploads.delete(session, OWNER, teacher)
    assert conflict.value.type == "upload-in-use"
    cancel(bench, study)
    with bench.database.session() as session:
        uploads.delete(session, OWNER, teacher)
    with pytest.raises(NotFound, match=teacher):
        resume(bench, study)
    assert study_row(bench, study).state == "cancelled"


def test_a_hopeless_trial_is_stopped_by_its_curve(bench: Bench) -> None:
    study = make_study(bench, "depth", max_accuracy_drop=1, depths=[8, 14, 20])
    deep = take(bench)
    assert bench.row(deep.job_id).trial == {"depth": 14, "seed": 0}
    tell(bench, deep, 80, 90, 96, 97.5)
    succeed(bench, deep, 97.5)
    look(bench, study)
    shallow = take(bench)
    tell(bench, shallow, 50)
    keep_house(bench)
    assert bench.row(shallow.job_id).cancel_requested_at is None
    tell(bench, shallow, 50, 60, 70)
    # No trial has ended since: it is the epoch that is news.
    keep_house(bench)
    row = bench.row(shallow.job_id)
    assert (row.cancel_requested_at is not None, row.trial_stopped) == (True, "hopeless")
    assert bench.events(shallow.job_id, "cancel_requested") == [{"stopped": "hopeless"}]
    assert study_row(bench, study).state == "running"
    with bench.database.session() as session:
        attempts.cancelled(session, shallow)
    keep_house(bench)
    row = study_row(bench, study)
    assert row.state == "succeeded"
    assert row.result is not None
    assert row.result["choice"] == {"depth": 14}
    assert [(line["depth"], line["stopped"], line["failed"]) for line in row.result["table"]["rows"]] == [
        (8, 1, 0),
        (14, 0, 0),
        (20, 0, 0),
    ]


def test_a_stopped_trial_that_was_just_done_counts(bench: Bench) -> None:
    study = make_study(bench, "depth", max_accuracy_drop=3, depths=[8, 14])
    with bench.database.session() as session:
        workers.register(session, "a", "host", ["cpu"], [SPEC_VERSION])
        workers.register(session, "b", "host", ["cpu"], [SPEC_VERSION])
    look(bench, study)
    by_depth = {}
    for _ in range(2):
        claim = take(bench)
        by_depth[bench.row(claim.job_id).trial["depth"]] = claim
    succeed(bench, by_depth[8], 97)
    look(bench, study)
    assert bench.row(by_depth[14].job_id).trial_stopped == "unneeded"
    succeed(bench, by_depth[14], 98)
    look(bench, study)
    row = study_row(bench, study)
    assert row.result is not None
    assert (row.state, row.result["choice"]) == ("succeeded", {"depth": 8})
    assert [line["succeeded"] for line in row.result["table"]["rows"]] == [1, 1]


def test_a_trial_that_someone_cancels_is_not_made_again_before_a_resume(bench: Bench) -> None:
    study = make_study(bench, "compare", **TWO_ARMS)
    victim = trials(bench, study)[0].id
    bench.cancel(victim)
    for _ in range(3):
        succeed(bench, take(bench), 95)
        look(bench, study)
    row = study_row(bench, study)
    assert row.result is not None
    # The other arm is whole.
    assert (row.state, row.result["choice"]) == ("succeeded", {"arm": "kd"})
    assert len(trials(bench, study)) == 4
    resume(bench, study)
    assert [job.trial for job in trials(bench, study)][4:] == [{"arm": "lit", "seed": 0}]


def test_workers_on_one_study_and_a_cancel_in_the_middle_never_lock_each_other_out(bench: Bench) -> None:
    study = make_study(bench, "compare", methods=["lit", "kd"], seeds=list(range(8)))
    enough = threading.Event()

    def one_worker(name: str) -> int:
        count = 0
        while not enough.is_set() or count < 3:
            with bench.database.session() as session:
                claim = attempts.claim(session, name, ["cpu"], [SPEC_VERSION], 60)
            if claim is None:
                break
            end(bench, claim)
            look(bench, study)
            count += 1
            if count == 3:
                enough.set()
        return count

    def canceller() -> int:
        enough.wait(20)
        return len(cancel(bench, study).id)

    together([partial(one_worker, "a"), partial(one_worker, "b"), canceller])
    keep_house(bench)
    row = study_row(bench, study)
    assert row.state == "cancelled"
    assert all(JobState(state).finished for state in states(bench, study))


def end(bench: Bench, claim: Claim) -> None:
    with bench.database.session() as session:
        if attempts.heartbeat(session, claim, 60, 1.0).cancel_requested:
            attempts.cancelled(session, claim)
            return
    succeed(bench, claim, 95)
