"""Why a job or a study failed."""

from __future__ import annotations

from lit_spec.base import OpenEnum, SpecModel


class ErrorType(OpenEnum):
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out-of-memory"
    BAD_DATASET = "bad-dataset"
    BAD_TEACHER = "bad-teacher"
    BAD_SPECIFICATION = "bad-specification"
    TEACHER_NEAR_CHANCE = "teacher-near-chance"
    TEACHER_BELOW_EXPECTED = "teacher-below-expected"
    DEVICE_UNAVAILABLE = "device-unavailable"
    WORKER_LOST = "worker-lost"
    TOO_FEW_WORKERS = "too-few-workers"
    TRAINER_CRASHED = "trainer-crashed"
    TIME_LIMIT = "time-limit"
    MEMORY_LIMIT = "memory-limit"
    CPU_LIMIT = "cpu-limit"
    FILE_SIZE_LIMIT = "file-size-limit"
    DISK_LIMIT = "disk-limit"


class JobError(SpecModel):
    """Why a job failed: `detail` is for people, `type` for programs."""

    type: ErrorType
    """The stable name of the cause."""
    detail: str
    """One sentence that says what is wrong, followed by what to do."""
    field: str | None = None
    """The field of the request that should be changed, if there is one."""
    member: str | None = None
    """The file or array inside the data set that is wrong, if there is one."""

    def __str__(self) -> str:
        places = [place for place in (self.field, self.member) if place]
        where = f" ({', '.join(places)})" if places else ""
        return f"{self.detail}{where} [{self.type}]"


class StudyErrorType(OpenEnum):
    NO_RESULT = "no-result"
    """Trials failed or were cancelled, and the other trials don't give a result."""
    OUTDATED = "outdated"
    """This version of LIT refuses a job that the study would create."""


class StudyError(SpecModel):
    """Why a study failed."""

    type: StudyErrorType
    """The stable name of the cause."""
    detail: str
    """One sentence that says what is wrong, followed by what to do."""

    def __str__(self) -> str:
        return f"{self.detail} [{self.type}]"
