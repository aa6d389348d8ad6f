"""What the client's calls return. The classes are those that the API answers with, from `lit_spec.answers`."""

from lit_spec.answers.architectures import ArchitectureItem, LibraryArchitecture
from lit_spec.answers.audit import AuditEntry
from lit_spec.answers.jobs import (
    Artifact,
    ArtifactPage,
    Event,
    EventPage,
    Job,
    JobLinks,
    JobLive,
    JobProgress,
    JobTracking,
    JobWorker,
    Metric,
    MetricPage,
    MlflowRun,
    RegisteredVersion,
    Waiting,
)
from lit_spec.answers.keys import Key, NewKey
from lit_spec.answers.owners import Me, OwnerQuotas, Quotas, Usage
from lit_spec.answers.pages import Page
from lit_spec.answers.studies import Study, StudyLinks, StudyProgress, StudyTable, TeacherRow
from lit_spec.answers.uploads import Upload, UploadPart, UploadParts
from lit_spec.answers.webhooks import DeliveryAttempt, Webhook, WebhookDelivery, WebhookDisabled, WebhookWithSecret
from lit_spec.errors import JobError, StudyError
from lit_spec.networks.architecture import Architecture, Inspection, LibraryRequest, TeacherWeights
from lit_spec.networks.students import StudentOption
from lit_spec.states import UploadKind

__all__ = [
    "Architecture",
    "ArchitectureItem",
    "Artifact",
    "ArtifactPage",
    "AuditEntry",
    "DeliveryAttempt",
    "Event",
    "EventPage",
    "Inspection",
    "Job",
    "JobError",
    "JobLinks",
    "JobLive",
    "JobProgress",
    "JobTracking",
    "JobWorker",
    "Key",
    "LibraryArchitecture",
    "LibraryRequest",
    "Me",
    "Metric",
    "MetricPage",
    "MlflowRun",
    "NewKey",
    "OwnerQuotas",
    "Page",
    "Quotas",
    "RegisteredVersion",
    "StudentOption",
    "Study",
    "StudyError",
    "StudyLinks",
    "StudyProgress",
    "StudyTable",
    "TeacherRow",
    "TeacherWeights",
    "Upload",
    "UploadKind",
    "UploadPart",
    "UploadParts",
    "Usage",
    "Waiting",
    "Webhook",
    "WebhookDelivery",
    "WebhookDisabled",
    "WebhookWithSecret",
]
