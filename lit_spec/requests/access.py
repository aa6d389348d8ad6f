"""The requests for keys and quotas."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, StringConstraints

from lit_spec.base import NameText, SpecModel
from lit_spec.scopes import USUAL_SCOPES, Scope

LONGEST_OWNER = 255
LONGEST_GRACE = 30 * 86_400
"""Seconds: a month."""
MOST = 1 << 62
"""The database counts in 64 bits, and sums must fit too."""

OwnerName = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_OWNER, pattern=r"^[!-~]+$"), Field(examples=["vision-team"])
]
"""Printable ASCII without blanks, so that it fits into paths, headers and logs."""
_LATEST = datetime(3000, 1, 1, tzinfo=UTC)
"""So that no sum of times leaves what a datetime can be."""


def _is_near(time: datetime) -> datetime:
    if time >= _LATEST:
        raise ValueError("must be before the year 3000; leave it out for a key that does not expire")
    return time


Expiry = Annotated[AwareDatetime, AfterValidator(_is_near)]
Limit = Annotated[int, Field(ge=0, le=MOST)]


class KeyRequest(SpecModel):
    """The body of `POST /v1/keys`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "ci", "owner": "vision-team", "scopes": ["read", "submit"]}]}
    )

    name: NameText = Field(min_length=1, max_length=255)
    """Who or what the key is for."""
    owner: OwnerName | None = None
    """Whose things it reaches. Keys with the same owner share all they make. None: the key is an owner of its own."""
    scopes: list[Scope] = Field(list(USUAL_SCOPES), min_length=1, max_length=len(Scope))
    """What it may do. `admin` includes the others."""
    expires_at: Expiry | None = None
    """From then on it is refused. None: it does not expire."""


class RotateRequest(SpecModel):
    """The body of `POST /v1/keys/{id}/rotate`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_seconds": 86_400}]})

    grace_seconds: int = Field(0, ge=0, le=LONGEST_GRACE)
    """How long the old secret stays valid beside the new one."""
    expires_at: Expiry | None = None
    """Of the new secret. None: it lives as long as the old one was made to."""


class QuotasRequest(SpecModel):
    """The body of `PUT /v1/owners/{owner}/quotas`. What is left out is as for every owner; null is no limit."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs_queued": 100, "bytes": None}]})

    jobs_queued: Limit | None = None
    """Jobs that may wait for a worker."""
    jobs_running: Limit | None = None
    """Jobs that workers may run at once; more wait."""
    bytes: Limit | None = None
    """Bytes that may be stored."""
