"""What the API answers about owners: who the caller is, and what an owner uses and may use."""

from __future__ import annotations

from datetime import datetime

from lit_spec.answers.base import Answer
from lit_spec.base import OpenEnum
from lit_spec.scopes import Scope


class QuotaName(OpenEnum):
    JOBS_QUEUED = "jobs_queued"
    JOBS_RUNNING = "jobs_running"
    BYTES = "bytes"


class Quotas(Answer):
    """How much an owner may use. None: no limit."""

    jobs_queued: int | None = None
    """Jobs that wait for a worker."""
    jobs_running: int | None = None
    """Jobs that workers run."""
    bytes: int | None = None
    """Of uploads, by their announced sizes, and of the files of jobs."""


class Usage(Answer):
    """How much an owner uses, counted as in `Quotas`."""

    jobs_queued: int
    """Jobs that wait for a worker."""
    jobs_running: int
    """Jobs that workers run."""
    bytes: int
    """Stored bytes of uploads and of the files of jobs."""


class OwnerQuotas(Answer):
    """What an owner uses and may use."""

    owner: str
    """The owner's name."""
    usage: Usage
    """What the owner uses now."""
    quotas: Quotas
    """What the owner may use."""


class CallerKey(Answer):
    """The key of the request."""

    id: str
    """`key_…`."""
    name: str
    """Who or what it is for."""


class Me(OwnerQuotas):
    """Who the service takes the caller for."""

    scopes: list[Scope]
    """What the caller may do."""
    key: CallerKey | None
    """None: the caller has a bearer token, or needs no key."""
    subject: str | None
    """`sub` of a bearer token."""
    expires_at: datetime | None
    """Of the key or the token."""
