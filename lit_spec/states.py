"""The states of jobs, studies and uploads."""

from __future__ import annotations

from lit_spec.base import OpenEnum


class JobState(OpenEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in FINISHED_STATES


FINISHED_STATES = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class StudyState(OpenEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (StudyState.SUCCEEDED, StudyState.FAILED, StudyState.CANCELLED)


class UploadKind(OpenEnum):
    TEACHER = "teacher"
    DATASET = "dataset"


class UploadState(OpenEnum):
    UPLOADING = "uploading"
    COMPLETE = "complete"


class InspectionState(OpenEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class DeliveryState(OpenEnum):
    """Of a webhook's message."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """All attempts failed. It can be delivered again on request."""
