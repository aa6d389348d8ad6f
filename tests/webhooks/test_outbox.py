"""What is recorded for webhooks: each change of a state, in the transaction that makes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.models import Study, Upload, Webhook, WebhookDelivery
from jobs.housekeeping import Housekeeper
from jobs.ledger import attempts, owned_jobs, uploads
from jobs.ledger.attempts import Claim
from jobs.ledger.transitions import Event
from jobs.studies import studies
from jobs.webhooks import deliveries, outbox, webhooks
from lit_spec import ErrorType, JobError
from tests.jobs.study_bench import look, make_study, trials, work
from tests.webhooks.receiver import add_webhook, messages
from tests.worker.bench import OWNER, Bench, wait_for

URL = "https://hooks.example.com/"
LOST = JobError(type=ErrorType.WORKER_LOST, detail="the worker is gone")


def take(bench: Bench) -> Claim:
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [100], 60)
    assert claim is not None
    return claim


def test_each_state_of_a_job_is_told_once(bench: Bench) -> None:
    teacher = bench.teacher()
    webhook = add_webhook(bench.database, URL)
    job = bench.job(teacher=teacher, name="n", tags=["a"])
    claim = take(bench)
    with bench.database.session() as session:
        attempts.record(session, claim, [Event("started")], [], {"phase": "lit"}, None)
        attempts.lose(session, claim, LOST)
    claim = take(bench)
    with bench.database.session() as session:
        attempts.succeed(session, claim, {"accepted": True}, [])
    told = messages(bench.database, webhook)
    assert [each.type for each in told] == [
        "job.queued",
        "job.running",
        "job.queued",
        "job.running",
        "job.succeeded",
    ]
    assert len({each.id for each in told}) == 5
    assert told[-1].data == {
        "id": job,
        "name": "n",
        "tags": ["a"],
        "state": "succeeded",
        "attempt": 2,
        "accepted": True,
        "error": None,
        "study_id": None,
        "trial": None,
        "links": {
            "self": f"/v1/jobs/{job}",
            "events": f"/v1/jobs/{job}/events",
            "artifacts": f"/v1/jobs/{job}/artifacts",
        },
    }


def test_failures_cancels_and_inspections_are_told(bench: Bench) -> None:
    webhook = add_webhook(bench.database, URL)
    teacher = bench.teacher()
    bench.job(teacher=teacher)
    claim = take(bench)
    with bench.database.session() as session:
        attempts.fail(session, claim, LOST)
    bench.cancel(bench.job(teacher=teacher))
    with bench.database.session() as session:
        uploads.inspect_again(session, session.scalars(select(Upload).with_for_update()).one())
    for _ in range(3):
        with bench.database.session() as session:
            claimed = uploads.claim_inspection(session, 60)
            assert claimed is not None
            uploads.lose_inspection(session, claimed, LOST)
    told = messages(bench.database, webhook)
    assert [each.type for each in told] == [
        "upload.inspected",
        "job.queued",
        "job.running",
        "job.failed",
        "job.queued",
        "job.cancelled",
        "upload.inspected",
    ]
    assert told[3].data["error"] == LOST.model_dump(mode="json")
    assert [(told[at].data["id"], told[at].data["inspection_state"]) for at in (0, 6)] == [
        (teacher, "done"),
        (teacher, "failed"),
    ]
    assert told[6].data["error"]["type"] == "worker-lost"


def test_webhooks_choose_events_and_tags(bench: Bench) -> None:
    ends = add_webhook(bench.database, URL, events=["job.cancelled", "upload.inspected"])
    tagged = add_webhook(bench.database, URL, tags=["night", "day"])
    disabled = add_webhook(bench.database, URL, enabled=False)
    others = add_webhook(bench.database, URL, owner="key_other")
    teacher = bench.teacher()
    bench.cancel(bench.job(teacher=teacher, tags=["day", "x"]))
    bench.job(teacher=teacher, tags=["x"])
    bench.job(teacher=teacher)
    assert [each.type for each in messages(bench.database, ends)] == ["upload.inspected", "job.cancelled"]
    assert [each.type for each in messages(bench.database, tagged)] == ["job.queued", "job.cancelled"]
    assert messages(bench.database, disabled) == messages(bench.database, others) == []


def test_a_change_that_is_rolled_back_is_not_told(bench: Bench) -> None:
    webhook = add_webhook(bench.database, URL)
    job = bench.job()
    before = len(messages(bench.database, webhook))

    with bench.database.engine.connect() as connection, Session(connection) as session:
        owned_jobs.request_cancel(session, OWNER, job)
        assert session.scalars(select(WebhookDelivery).where(WebhookDelivery.type == "job.cancelled")).one()
        session.rollback()
    assert len(messages(bench.database, webhook)) == before
    assert bench.row(job).state == "queued"


def test_a_webhook_that_is_deleted_meanwhile_does_not_disturb_a_job(bench: Bench) -> None:
    webhook = add_webhook(bench.database, URL)
    job = bench.job()
    cancel = threading.Thread(target=bench.cancel, args=[job])
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def waiting() -> bool:
        with bench.database.session() as other:
            return bool(other.scalar(waits))

    with bench.database.session() as session:
        webhooks.delete(session, OWNER, webhook.id)
        cancel.start()
        wait_for(waiting)
    cancel.join(20)
    assert bench.row(job).state == "cancelled"


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def see(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "webhook" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


def test_an_owner_without_webhooks_pays_one_lookup_for_each_state(bench: Bench) -> None:
    bench.job()
    with statements(bench.database.engine) as seen:
        claim = take(bench)
        assert len(seen) == 1
        with bench.database.session() as session:
            attempts.record(session, claim, [Event("epoch")], [], {"phase": "lit"}, None)
            attempts.heartbeat(session, claim, 60, 1.0)
        assert len(seen) == 1


def test_studies_are_told_with_their_result(bench: Bench) -> None:
    webhook = add_webhook(bench.database, URL, events=["study.running", "study.succeeded", "study.cancelled"])
    study = make_study(bench, "compare", methods=["lit", "kd"], seeds=[0], name="arms")
    work(bench, study, lambda key: 90.0 if key["arm"] == "lit" else 80.0)
    cancelled = make_study(bench, "compare", methods=["lit", "kd"], seeds=[0])
    with bench.database.session() as session:
        studies.request_cancel(session, OWNER, cancelled)
    with bench.database.session() as session:
        studies.resume(session, OWNER, cancelled)
    told = messages(bench.database, webhook)
    assert [(each.type, each.data["id"]) for each in told] == [
        ("study.running", study),
        ("study.succeeded", study),
        ("study.running", cancelled),
        ("study.cancelled", cancelled),
        ("study.running", cancelled),
    ]
    finished = told[1].data
    assert (finished["name"], finished["kind"], finished["state"]) == ("arms", "compare", "succeeded")
    assert (finished["choice"], finished["links"]["table"]) == ({"arm": "lit"}, f"/v1/studies/{study}/table")
    assert finished["best_job"] in {job.id for job in trials(bench, study)}
    assert told[4].data["round"] == 2


def test_a_study_that_can_not_be_read_is_told_as_failed(bench: Bench) -> None:
    webhook = add_webhook(bench.database, URL, events=["study.failed"])
    study = make_study(bench, "compare", methods=["lit", "kd"], seeds=[0])
    with bench.database.session() as session:
        session.execute(update(Study).values(spec={}))
    for _ in range(2):
        look(bench, study)
    [told] = messages(bench.database, webhook)
    assert told.data["error"]["type"] == "outdated"


def test_old_messages_are_forgotten(bench: Bench, database: Database) -> None:
    webhook = add_webhook(database, URL)
    bench.job()
    old, *kept = [each.id for each in messages(database, webhook)]
    with database.session() as session:
        age = text(f"now() - interval '{deliveries.KEPT_DAYS} days 1 minute'")
        session.execute(update(WebhookDelivery).where(WebhookDelivery.id == old).values(created_at=age))
    Housekeeper(database, lambda _: None, bench.settings, bench.storage).keep_ledger()
    assert [each.id for each in messages(database, webhook)] == kept


def test_a_request_that_stands_still_while_it_changes_a_webhook_holds_up_no_job(bench: Bench) -> None:
    teacher = bench.teacher()
    webhook = add_webhook(bench.database, URL)
    with bench.database.session() as standing:
        webhooks.change(standing, OWNER, webhook.id, {"name": "new"})
        with bench.database.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '2s'"))
            found = session.scalars(select(Webhook).where(Webhook.id == webhook.id)).one()
            outbox.add_delivery(session, found, "ping", {})
        with bench.database.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '2s'"))
            upload = session.scalars(select(Upload).where(Upload.id == teacher)).one()
            outbox.upload_inspected(session, upload)
    assert [each.type for each in messages(bench.database, webhook)] == ["ping", "upload.inspected"]
