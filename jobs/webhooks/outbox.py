"""Records the messages for webhooks, in the transaction that changes what they tell of.

So a change that is rolled back is never told, and one that is committed is told at least once. Owners without webhooks
cost one look at an index for each change of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from jobs.database.models import Job, Study, Upload, Webhook, WebhookDelivery
from jobs.database.notifications import notify
from jobs.ids import new_id
from lit_spec.requests.webhook import WebhookEvent
from lit_spec.states import DeliveryState, JobState, StudyState

TOPIC = "webhooks"
"""Notified whenever a delivery becomes due; the delivering processes listen."""


def job_changed(session: Session, job: Job) -> None:
    """The job, whose row is locked, has a new state."""
    path = f"/v1/jobs/{job.id}"
    data = {
        "id": job.id,
        "name": job.name,
        "tags": job.tags,
        "state": JobState(job.state).value,
        "attempt": job.attempt,
        "accepted": (job.result or {}).get("accepted"),
        "error": job.error,
        "study_id": job.study_id,
        "trial": job.trial,
        "links": {"self": path, "events": f"{path}/events", "artifacts": f"{path}/artifacts"},
    }
    _record(session, job.owner, WebhookEvent(f"job.{data['state']}"), data, job.tags)


def study_changed(session: Session, study: Study) -> None:
    """The study, whose row is locked, has a new state."""
    path = f"/v1/studies/{study.id}"
    result = study.result or {}
    data = {
        "id": study.id,
        "name": study.name,
        "tags": study.tags,
        "kind": study.kind,
        "state": StudyState(study.state).value,
        "round": study.round,
        "choice": result.get("choice"),
        "best_job": result.get("best_job"),
        "error": study.error,
        "links": {"self": path, "table": f"{path}/table", "jobs": f"/v1/jobs?study={study.id}"},
    }
    _record(session, study.owner, WebhookEvent(f"study.{data['state']}"), data, study.tags)


def upload_inspected(session: Session, upload: Upload) -> None:
    """The inspection of the upload, whose row is locked, has finished."""
    data = {
        "id": upload.id,
        "kind": upload.kind,
        "filename": upload.filename,
        "size": upload.size,
        "sha256": upload.sha256,
        "inspection_state": upload.inspection_state,
        "error": upload.inspection_error,
        "links": {"self": f"/v1/uploads/{upload.id}"},
    }
    _record(session, upload.owner, WebhookEvent.UPLOAD_INSPECTED, data, [])


def add_delivery(session: Session, webhook: Webhook, type: str, data: dict[str, Any]) -> WebhookDelivery:
    """Record a message for one webhook. It is sent once this transaction has committed."""
    delivery = WebhookDelivery(
        id=new_id("msg"),
        webhook_id=webhook.id,
        owner=webhook.owner,
        type=type,
        data=data,
        state=DeliveryState.PENDING,
        due_at=func.clock_timestamp(),
        attempt=0,
        failures=0,
        attempts=[],
    )
    session.add(delivery)
    session.flush()
    notify(session, TOPIC)
    return delivery


def _record(session: Session, owner: str, event: WebhookEvent, data: dict[str, Any], tags: Sequence[str]) -> None:
    query = select(Webhook).where(
        Webhook.owner == owner,
        Webhook.enabled,
        or_(Webhook.events.is_(None), Webhook.events.contains([event.value])),
        or_(func.cardinality(Webhook.tags) == 0, Webhook.tags.overlap(list(tags))),
    )
    # Held until the end, because a webhook that is deleted meanwhile would make the change itself fail.
    held = query.order_by(Webhook.id).with_for_update(read=True, key_share=True)
    for webhook in session.scalars(held).all():
        add_delivery(session, webhook, event.value, data)
