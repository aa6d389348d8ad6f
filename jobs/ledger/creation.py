"""Adds jobs to the queue: each with its first event, its uploads, its Idempotency-Key and its audit entry.

All of it is one statement. What only some owners have, limits and webhooks, takes a transaction around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.connection import Database, one_line
from jobs.database.models import Job
from jobs.errors import Stale
from jobs.ids import new_id
from jobs.ledger import audit, quotas, uploads
from jobs.ledger.idempotency import IdempotentRequest, find_job
from jobs.tracing import current_traceparent
from jobs.webhooks import outbox
from lit_spec import JobRequest, JobSpec
from lit_spec.answers.owners import Quotas
from lit_spec.states import JobState


@dataclass(frozen=True)
class TrialOfStudy:
    """Which study a job is a trial of, and which trial it is."""

    study_id: str
    key: dict[str, Any]
    """What tells it from the study's other trials."""
    round: int


@dataclass(frozen=True)
class Action:
    """What the audit log calls the creation of a job."""

    name: str = "job.create"
    detail: dict[str, Any] | None = None


@dataclass(frozen=True)
class NewJob:
    """A job that is to be made."""

    owner: str
    request: JobRequest
    spec: JobSpec
    uploads: Mapping[str, str | None]
    """The uploads that it needs. With a stamp: only if the upload's row has not changed since the stamp was read."""
    idempotency: IdempotentRequest | None = None
    action: Action | None = None
    """None: nobody's own action, such as a trial of a study."""
    trial: TrialOfStudy | None = None
    id: str = field(default_factory=lambda: new_id("job"))


class NotMade(StrEnum):
    """Why `create_at_once` made nothing."""

    KEY_IS_KNOWN = "an earlier request had the same Idempotency-Key"
    UPLOADS_CHANGED = "an upload was deleted, or changed since its stamp was read"
    NOT_AT_ONCE = "the owner's jobs are limited or told to webhooks"


_CREATE = one_line("""
    WITH held AS MATERIALIZED (
        SELECT upload.id
        FROM unnest(%(uploads)s::text[], %(stamps)s::text[]) AS needed (id, stamp)
        JOIN uploads AS upload ON upload.id = needed.id
        WHERE upload.owner = %(owner)s::text AND (needed.stamp IS NULL OR needed.stamp = upload.xmin::text)
        ORDER BY upload.id
        FOR KEY SHARE OF upload
    ), checked AS MATERIALIZED (
        SELECT
            (SELECT count(*) FROM held) = cardinality(%(uploads)s::text[]) AS has_uploads,
            NOT %(at_once)s::boolean OR NOT (
                EXISTS (
                    SELECT FROM owner_quotas
                    WHERE owner = %(owner)s::text AND (limits ->> 'jobs_queued') IS NOT NULL
                ) OR EXISTS (SELECT FROM webhooks WHERE owner = %(owner)s::text AND enabled)
            ) AS is_simple
    ), locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(hashtextextended(%(owner)s::text || chr(10) || %(key)s::text, 0))
        FROM checked WHERE has_uploads AND is_simple AND %(key)s::text IS NOT NULL
    ), remembered AS (
        INSERT INTO idempotency_keys (owner, key, request_hash, job_id)
        SELECT %(owner)s::text, %(key)s::text, %(request_hash)s::text, %(id)s::text FROM locked
        ON CONFLICT DO NOTHING
        RETURNING key
    ), made AS (
        INSERT INTO jobs (
            id, owner, name, tags, state, device, devices, nodes, spec_version, request, spec, max_attempts,
            study_id, trial, trial_round, traceparent, event_seq, version
        )
        SELECT
            %(id)s::text, %(owner)s::text, %(name)s::text, %(tags)s::text[], 'queued', %(device)s::text,
            %(devices)s::bigint, %(nodes)s::bigint, %(spec_version)s::bigint, %(request)s::jsonb, %(spec)s::jsonb,
            %(max_attempts)s::bigint, %(study_id)s::text, %(trial)s::jsonb, %(trial_round)s::bigint,
            %(traceparent)s::text, 1, 1
        FROM checked
        WHERE has_uploads AND is_simple AND (%(key)s::text IS NULL OR EXISTS (SELECT FROM remembered))
        RETURNING id, created_at
    ), told AS (
        INSERT INTO events (job_id, seq, attempt, type, data) SELECT id, 1, 0, 'queued', '{}' FROM made
    ), connected AS (
        INSERT INTO job_uploads (job_id, upload_id) SELECT id, unnest(%(uploads)s::text[]) FROM made
    ), audited AS (
        INSERT INTO audit_log (
            id, owner, key_id, subject, action, kind, object_id, outcome, request_id, address, detail
        )
        SELECT
            %(audit_id)s::text, %(actor)s::text, %(key_id)s::text, %(subject)s::text, %(action)s::text, 'job', id,
            'done', %(request_id)s::text, %(address)s::text, %(detail)s::jsonb
        FROM made WHERE %(action)s::text IS NOT NULL
    )
    SELECT made.created_at, checked.has_uploads, checked.is_simple FROM checked LEFT JOIN made ON true
""")
"""The unique index decides which of two requests with one key makes a job: the second waits for the first to commit.
The lock is that of `idempotency.find_job`, for those who look first."""


def create(session: Session, new: NewJob, defaults: Quotas = quotas.NO_QUOTAS) -> Job:
    """Add a queued job, or return the one that the same idempotent request made earlier.

    A study has looked for room for its trials in the owner's quota itself. `defaults`: the quotas of owners without
    their own.

    Raises Conflict `idempotency-key-reused` when the key belongs to another request, NotFound when one of the uploads
    was deleted, Stale when one has changed since its stamp was read, and QuotaExceeded.
    """
    earlier = find_job(session, new.owner, new.idempotency)
    if earlier is not None:
        return earlier
    if new.trial is None:
        quotas.require_room_for_job(session, new.owner, defaults)
    values = _values(new)
    row = session.connection().exec_driver_sql(_CREATE, _parameters(new, values, at_once=False)).one()
    made = _made(values, row)
    if isinstance(made, Job):
        outbox.job_changed(session, made)
        return made
    uploads.hold_for_job(session, new.owner, list(new.uploads))
    raise Stale


def create_at_once(database: Database, new: NewJob, defaults: Quotas = quotas.NO_QUOTAS) -> Job | NotMade:
    """Like `create`, in one round trip: nothing is made where that needs more than the one statement."""
    if defaults.jobs_queued is not None:
        return NotMade.NOT_AT_ONCE
    values = _values(new)
    return _made(values, database.statement(_CREATE, _parameters(new, values, at_once=True)))


def _made(values: dict[str, Any], row: Any) -> Job | NotMade:
    created_at, has_uploads, is_simple = row
    if created_at is not None:
        # Not of any session: nothing of it has to be read again, and what changes it later reads the row.
        return Job(**values, created_at=created_at, kept=False)
    if not has_uploads:
        return NotMade.UPLOADS_CHANGED
    return NotMade.KEY_IS_KNOWN if is_simple else NotMade.NOT_AT_ONCE


def _values(new: NewJob) -> dict[str, Any]:
    """Of the columns of the job's row."""
    request, spec, trial = new.request, new.spec, new.trial
    return {
        "id": new.id,
        "owner": new.owner,
        "name": request.name,
        "tags": request.tags,
        "state": JobState.QUEUED.value,
        "device": spec.device.value,
        "devices": spec.devices,
        "nodes": spec.nodes,
        "spec_version": spec.spec_version,
        "request": request.model_dump(mode="json", exclude_unset=True),
        "spec": spec.model_dump(mode="json"),
        "max_attempts": spec.max_attempts,
        "study_id": trial and trial.study_id,
        "trial": trial and trial.key,
        "trial_round": trial and trial.round,
        "traceparent": current_traceparent(),
        "attempt": 0,
        "failures": 0,
        "event_seq": 1,
        "version": 1,
        "seconds_used": 0.0,
    }


def _parameters(new: NewJob, values: dict[str, Any], *, at_once: bool) -> dict[str, Any]:
    action, actor, key = new.action, audit.current_actor(), new.idempotency
    return {
        **values,
        "request": json.dumps(values["request"]),
        "spec": json.dumps(values["spec"]),
        "trial": None if new.trial is None else json.dumps(new.trial.key),
        "uploads": list(new.uploads),
        "stamps": list(new.uploads.values()),
        "at_once": at_once,
        "key": key and key.key,
        "request_hash": key and key.request_hash,
        "audit_id": new_id("aud"),
        "actor": actor.owner,
        "key_id": actor.key_id,
        "subject": actor.subject,
        "action": action and action.name,
        "request_id": actor.request_id,
        "address": actor.address,
        "detail": None if action is None or action.detail is None else json.dumps(action.detail),
    }
