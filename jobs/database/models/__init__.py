"""The tables. Only Alembic makes them; a test compares models and migrations."""

from jobs.database.models.base import Base
from jobs.database.models.jobs import LIFECYCLE, EpochMetrics, Event, Job, JobFiles, JobTag, JobUpload
from jobs.database.models.owners import ApiKey, AuditEntry, IdempotencyKey, OwnerBytes, OwnerQuotas
from jobs.database.models.storage import SpentCheckpoints, StorageMarker, StorageRemoval
from jobs.database.models.studies import Study, StudyTag, StudyUpload
from jobs.database.models.tracking import TrackedRun
from jobs.database.models.uploads import Upload
from jobs.database.models.webhooks import PLANNED, Webhook, WebhookDelivery
from jobs.database.models.workers import Seat, Worker

__all__ = [
    "LIFECYCLE",
    "PLANNED",
    "ApiKey",
    "AuditEntry",
    "Base",
    "EpochMetrics",
    "Event",
    "IdempotencyKey",
    "Job",
    "JobFiles",
    "JobTag",
    "JobUpload",
    "OwnerBytes",
    "OwnerQuotas",
    "Seat",
    "SpentCheckpoints",
    "StorageMarker",
    "StorageRemoval",
    "Study",
    "StudyTag",
    "StudyUpload",
    "TrackedRun",
    "Upload",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
