"""The tables. Only Alembic makes them; a test compares models and migrations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    false,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

LIFECYCLE_EVENTS = ("queued", "claimed", "released", "lost", "succeeded", "failed", "cancelled")
"""Types of the events that change the state of a job."""
LIFECYCLE = f"type IN ({', '.join(map(repr, LIFECYCLE_EVENTS))})"
"""The index of events by time has these only. A query must say it in these words, and not with parameters."""
PLANNED = "state = 'pending' AND due_at IS NOT NULL"
"""Messages for webhooks that wait for an attempt."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        str: Text,
        int: BigInteger,
        float: Double,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
        list[int]: ARRAY(Integer),
    }


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


class ApiKey(Base):
    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_created_at_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    owner: Mapped[str]
    """Whose things the key reaches. Several keys may have one owner: a team."""
    scopes: Mapped[list[str]]
    """Of `read`, `submit` and `admin`, sorted. Those that a scope includes are named too."""
    hash: Mapped[str] = mapped_column(unique=True)
    """Hexadecimal sha256 of the secret. The secret itself is not stored."""
    prefix: Mapped[str]
    """The secret's first characters, to tell keys apart."""
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the minute."""
    revoked_at: Mapped[datetime | None]
    replaced_by: Mapped[str | None]
    """The key that a rotation made from this one."""


class OwnerQuotas(Base):
    """The quotas of an owner that differ from the service's."""

    __tablename__ = "owner_quotas"

    owner: Mapped[str] = mapped_column(primary_key=True)
    limits: Mapped[dict[str, Any]]
    """By the name of the quota; null: no limit. A quota that is not named is the service's."""
    updated_at: Mapped[datetime] = _now()


class OwnerBytes(Base):
    """How much an owner stores. Triggers keep it, because the sum over all jobs and uploads would read all of them."""

    __tablename__ = "owner_bytes"

    owner: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    """Of uploads, by their announced sizes, and of the files of jobs that are not removed."""


class AuditEntry(Base):
    """Something that somebody changed, or was not allowed to."""

    __tablename__ = "audit_log"
    __table_args__ = (
        CheckConstraint("outcome IN ('done', 'denied')", name="outcome"),
        Index("ix_audit_log_created_at_id", "created_at", "id"),
        Index("ix_audit_log_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_audit_log_key_id_created_at_id", "key_id", "created_at", "id"),
        Index("ix_audit_log_action_created_at_id", "action", "created_at", "id"),
        Index("ix_audit_log_object_id_created_at_id", "object_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = _now()
    owner: Mapped[str | None]
    """Of the request. None: nobody's, as on the command line."""
    key_id: Mapped[str | None]
    subject: Mapped[str | None]
    """Of a bearer token; on the command line the user of the machine."""
    action: Mapped[str]
    """The kind of the object and what was done, as in `job.create`."""
    kind: Mapped[str]
    object_id: Mapped[str | None]
    outcome: Mapped[str]
    request_id: Mapped[str | None]
    address: Mapped[str | None]
    """The client's, as the service sees it."""
    detail: Mapped[dict[str, Any] | None]


class Upload(Base):
    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint("kind IN ('teacher', 'dataset')", name="kind"),
        CheckConstraint("state IN ('uploading', 'complete')", name="state"),
        CheckConstraint("inspection_state IN ('pending', 'running', 'done', 'failed')", name="inspection_state"),
        CheckConstraint("teacher_weights IN ('raw', 'ema')", name="teacher_weights"),
        CheckConstraint("received >= 0 AND received <= size", name="received"),
        Index("ix_uploads_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_uploads_owner_sha256", "owner", "sha256"),
        Index(
            "ix_uploads_to_inspect",
            "completed_at",
            postgresql_where=text("inspection_state IN ('pending', 'running')"),
        ),
        Index("ix_uploads_unfinished", "id", postgresql_where=text("state = 'uploading'")),
        Index(
            "ix_uploads_unused_since",
            text("coalesce(unused_since, completed_at)"),
            postgresql_where=text("state = 'complete'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    kind: Mapped[str]
    filename: Mapped[str]
    size: Mapped[int]
    received: Mapped[int] = mapped_column(server_default="0")
    writer: Mapped[int] = mapped_column(server_default="0")
    """The token of the newest request that writes: it only grows, and fences off every earlier request."""
    sha256: Mapped[str | None]
    """As announced while uploading; as computed once complete."""
    state: Mapped[str]
    architecture: Mapped[dict[str, Any] | None]
    """Which library's network the teacher is, as its owner says. It is inspected as this network."""
    teacher_weights: Mapped[str | None]
    """Which weights of a teacher its owner wants, if its file has raw and averaged ones."""
    inspection_state: Mapped[str | None]
    inspection: Mapped[dict[str, Any] | None]
    inspection_error: Mapped[dict[str, Any] | None]
    inspection_started_at: Mapped[datetime | None]
    inspection_failures: Mapped[int] = mapped_column(server_default="0")
    """How many inspections were lost. An inspection that finds that the file is not a teacher is not lost."""
    created_at: Mapped[datetime] = _now()
    received_at: Mapped[datetime] = _now()
    """When the newest bytes arrived, or a client last began to send some."""
    completed_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    """When its owner announced the same file again. Jobs and studies have their own times."""
    unused_since: Mapped[datetime | None]
    """It was needed until then or later, as retention found when it looked last. None: it has not looked."""


class Study(Base):
    """A group of jobs, which are its trials. `jobs.studies` decides what comes next."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_at"),
        Index("ix_studies_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_studies_owner_state_created_at_id", "owner", "state", "created_at", "id"),
        Index(
            "ix_studies_owner_name_created_at_id",
            "owner",
            "name",
            "created_at",
            "id",
            postgresql_where=text("name IS NOT NULL"),
        ),
        Index("ix_studies_running", "created_at", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    name: Mapped[str | None]
    tags: Mapped[list[str]]
    kind: Mapped[str]
    state: Mapped[str]
    study_version: Mapped[int]
    request: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    round: Mapped[int] = mapped_column(server_default="1")
    """Grows when the study is resumed: trials that failed or were cancelled in an earlier round are made again."""
    reads_curves: Mapped[bool] = mapped_column(server_default="false")
    """Whether its kind reads the curves of running trials, so that any epoch may change what comes next."""
    planned: Mapped[int]
    """The largest possible number of trials."""
    finished_jobs: Mapped[int] = mapped_column(server_default="0")
    """Jobs that had finished when the study was last advanced."""
    cancel_requested_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    version: Mapped[int] = mapped_column(server_default="0")
    """Grows with every change of the row that a reader can see."""
    created_at: Mapped[datetime] = _now()
    finished_at: Mapped[datetime | None]


class StudyUpload(Base):
    """Which uploads a study needs while it runs, also at times when no trial needs them."""

    __tablename__ = "study_uploads"

    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class JobFiles(Base):
    """What becomes of a job's files. A row of its own, because a finished job's row never changes.

    A trigger adds it when the job finishes.
    """

    __tablename__ = "job_files"
    __table_args__ = (
        Index(
            "ix_job_files_finished_at",
            "finished_at",
            postgresql_where=text("removed_at IS NULL AND NOT kept"),
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    finished_at: Mapped[datetime | None]
    """None: the job has not finished, and its owner wants to keep its files."""
    kept: Mapped[bool] = mapped_column(server_default="false")
    """Whether its owner wants to keep the files, however old they are."""
    removed_at: Mapped[datetime | None]
    """From then on nobody reads the files. They leave storage a little later."""


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("device IN ('auto', 'cpu', 'cuda')", name="device"),
        CheckConstraint("(state = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished_at"
        ),
        CheckConstraint("estimated_finish IS NULL OR state = 'running'", name="estimated_finish"),
        CheckConstraint("(study_id IS NULL) = (trial IS NULL)", name="trial"),
        CheckConstraint("trial_stopped IN ('hopeless', 'unneeded')", name="trial_stopped"),
        Index("ix_jobs_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_jobs_owner_state_created_at_id", "owner", "state", "created_at", "id"),
        Index(
            "ix_jobs_owner_name_created_at_id",
            "owner",
            "name",
            "created_at",
            "id",
            postgresql_where=text("name IS NOT NULL"),
        ),
        Index(
            "ix_jobs_study_id_created_at_id",
            "study_id",
            "created_at",
            "id",
            postgresql_where=text("study_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_study_id_trial_trial_round",
            "study_id",
            "trial",
            "trial_round",
            unique=True,
            postgresql_where=text("study_id IS NOT NULL"),
        ),
        Index("ix_jobs_study_id_state", "study_id", "state", postgresql_where=text("study_id IS NOT NULL")),
        # With all that a place in the queue depends on, and the nodes, so that no row need be read to count jobs in it.
        Index(
            "ix_jobs_queued",
            "device",
            "created_at",
            "id",
            postgresql_where=text("state = 'queued'"),
            postgresql_include=["owner", "spec_version", "devices", "nodes"],
        ),
        # One step in it finds an owner's oldest job for a device and a number of devices.
        Index(
            "ix_jobs_owner_queued",
            "device",
            "devices",
            "owner",
            "created_at",
            "id",
            postgresql_where=text("state = 'queued'"),
            postgresql_include=["spec_version"],
        ),
        # Not of `lease_expires_at`: each heartbeat would then write to all indexes of the table.
        Index("ix_jobs_running", "owner", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    name: Mapped[str | None]
    tags: Mapped[list[str]]
    state: Mapped[str]
    device: Mapped[str]
    devices: Mapped[int] = mapped_column(server_default="1")
    """Processes on each worker."""
    nodes: Mapped[int] = mapped_column(server_default="1")
    """Workers that train it together."""
    spec_version: Mapped[int]
    request: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    attempt: Mapped[int] = mapped_column(server_default="0")
    """How often the job was claimed. It only grows, and fences off every earlier attempt."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """How many attempts were lost. A drain is not a failure."""
    max_attempts: Mapped[int]
    study_id: Mapped[str | None] = mapped_column(ForeignKey("studies.id"))
    trial: Mapped[dict[str, Any] | None]
    """What distinguishes this job from the others of its study, for example {"arm": "lit", "seed": 3}."""
    trial_round: Mapped[int | None]
    """The round of the study in which the job was made."""
    trial_stopped: Mapped[str | None]
    """Why the study itself stopped this trial."""
    worker_id: Mapped[str | None]
    worker_device: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    checkpoint: Mapped[str | None]
    """Storage key of the newest recorded checkpoint, whichever attempt stored it."""
    progress: Mapped[dict[str, Any] | None]
    """How far the newest attempt is, or came."""
    estimated_finish: Mapped[datetime | None]
    """Written with the progress, by the database's clock. None while it is unknown or the job is not running."""
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    manifest: Mapped[list[dict[str, Any]] | None]
    stored_bytes: Mapped[int] = mapped_column(server_default="0")
    """Size of the files in the manifest, which count towards the owner's quota."""
    batch: Mapped[str | None]
    """Id of the newest recorded batch of trainer messages, so that a batch that is sent twice is recorded once."""
    event_seq: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")
    """Grows with every change that a reader can see. Heartbeats don't change it."""
    seconds_used: Mapped[float] = mapped_column(server_default="0")
    """Seconds of training over all attempts."""
    traceparent: Mapped[str | None]
    """The span of the request that made the job (W3C Trace Context), which the worker's trace continues."""
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # A subquery and not `exists`, for which the planner may read all of `job_files` at once.
    kept: Mapped[bool] = column_property(
        func.coalesce(
            select(JobFiles.kept).where(JobFiles.job_id == id).correlate_except(JobFiles).scalar_subquery(), false()
        ).label("kept")
    )
    files_removed_at: Mapped[datetime | None] = column_property(
        select(JobFiles.removed_at).where(JobFiles.job_id == id).correlate_except(JobFiles).scalar_subquery()
    )


class JobTag(Base):
    """A tag of a job, in the order of lists: pages of the jobs with a tag are read without those that don't have it.

    A trigger adds it with the job. Tags don't change.
    """

    __tablename__ = "job_tags"

    owner: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    """The job's."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True)


class StudyTag(Base):
    """A tag of a study, like JobTag."""

    __tablename__ = "study_tags"

    owner: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    """The study's."""
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True, index=True)


class Seat(Base):
    """The place of a worker in the attempt of another one. `jobs.ledger.seats` keeps them."""

    __tablename__ = "seats"
    __table_args__ = (
        CheckConstraint("lease_expires_at IS NULL OR worker_id IS NOT NULL", name="lease"),
        Index("ix_seats_open", "job_id", postgresql_where=text("worker_id IS NULL")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    node: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1: node 0 is the worker that has claimed the job."""
    attempt: Mapped[int]
    endpoint: Mapped[str]
    """host:port at which the trainer of node 0 waits for the others."""
    worker_id: Mapped[str | None]
    """None: nobody has taken it yet."""
    lease_expires_at: Mapped[datetime | None]
    """None: nobody has taken it, or the worker's part is done."""


class JobUpload(Base):
    """Which uploads a job needs. An upload's row may be deleted once the job has finished."""

    __tablename__ = "job_uploads"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_lifecycle", "created_at", postgresql_where=text(LIFECYCLE)),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()


class EpochMetrics(Base):
    """The metrics of a job in one epoch. One row, because a row for each number takes six times the space."""

    __tablename__ = "epoch_metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    values: Mapped[dict[str, Any]]
    """Numbers, by the names of the metrics."""
    attempt: Mapped[int]
    """The newest that wrote one of them."""


class TrackedRun(Base):
    """The run of a job at a tracking server. A job that a worker claims gets it; `jobs.tracking.runs` keeps it.

    It outlives its job until the run at the server has been ended.
    """

    __tablename__ = "tracked_runs"
    __table_args__ = (
        CheckConstraint("stage IN ('new', 'live', 'ended', 'stored', 'complete')", name="stage"),
        Index("ix_tracked_runs_due", "due_at", postgresql_where=text("stage <> 'complete'")),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    tracking_uri: Mapped[str]
    run_id: Mapped[str | None]
    """None: the run has not been made yet."""
    experiment_id: Mapped[str | None]
    stage: Mapped[str] = mapped_column(server_default="new")
    """What has been done: `new` nothing, `live` the run is described and follows the job, `ended` the job is finished
    and so is the run, `stored` its files are there, `complete` nothing is left to do."""
    event_seq: Mapped[int] = mapped_column(server_default="0")
    """Number of the job's newest event that the run has."""
    epochs: Mapped[int] = mapped_column(server_default="0")
    """The newest epoch that the run has, counted through all phases. Epochs that are repeated don't count."""
    status: Mapped[str | None]
    """The run's status, as it was last set."""
    registered: Mapped[dict[str, Any] | None]
    """`name` and `version` of the registered model."""
    error: Mapped[str | None]
    """What failed last, until it succeeds."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """How often in a row the tracking server has failed."""
    turn: Mapped[int] = mapped_column(server_default="0")
    """The token of the newest process that works on the run: it only grows, and fences off every earlier one."""
    due_at: Mapped[datetime] = _now()
    """When somebody may work on it again: not while a process does, and not too soon after a failure."""
    created_at: Mapped[datetime] = _now()


class SpentCheckpoints(Base):
    """A finished job that had been claimed, and whose checkpoints are still to be removed. A trigger adds it."""

    __tablename__ = "spent_checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    finished_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)


class StorageRemoval(Base):
    """A prefix in storage that nothing in the ledger names any more, and whose files are still to be removed."""

    __tablename__ = "storage_removals"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    remove_after: Mapped[datetime] = mapped_column(index=True)


class StorageMarker(Base):
    """One row: the id of the object by which a worker recognises the storage of this ledger."""

    __tablename__ = "storage_marker"

    id: Mapped[str] = mapped_column(primary_key=True)


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("num_nonnulls(job_id, study_id) = 1", name="one_made"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    study_id: Mapped[str | None] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = _now()


class Webhook(Base):
    """An address that an owner wants to be told events at."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_owner_created_at_id", "owner", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    url: Mapped[str]
    name: Mapped[str | None]
    events: Mapped[list[str] | None]
    """Types of events. None: all."""
    tags: Mapped[list[str]]
    """Only what has one of these tags. Empty: everything."""
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None]
    """Why the service disabled it. None if its owner did."""
    disabled_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    """When the first attempt failed after the newest success."""
    secret: Mapped[str]
    """Signatures are symmetric, so the secret itself is needed."""
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    """Until then messages are signed with the previous secret too."""
    created_at: Mapped[datetime] = _now()


class WebhookDelivery(Base):
    """A message for a webhook. It is added by the transaction that changed what it tells of."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_webhook_id_state_created_at_id", "webhook_id", "state", "created_at", "id"),
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=text(PLANNED)),
        Index("ix_webhook_deliveries_webhook_id_due", "webhook_id", "due_at", "id", postgresql_where=text(PLANNED)),
        Index("ix_webhook_deliveries_created_at", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    owner: Mapped[str]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    state: Mapped[str]
    due_at: Mapped[datetime | None]
    """When the next attempt is due. While one is under way: when it counts as lost. None while the webhook is
    disabled."""
    attempt: Mapped[int] = mapped_column(server_default="0")
    """How often the message was claimed. It only grows, and fences off every earlier attempt."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """Failed attempts since the message was made, or since its owner asked for another delivery."""
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'::jsonb"))
    """The newest attempts, oldest first."""
    created_at: Mapped[datetime] = _now()


class Worker(Base):
    """The registration of a training worker."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    devices: Mapped[list[str]]
    spec_versions: Mapped[list[int]]
    processes: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """By device, how many processes of one job it can run."""
    job_id: Mapped[str | None]
    last_seen: Mapped[datetime] = _now()
