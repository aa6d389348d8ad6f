"""The body of every error, for the OpenAPI document and for the answers themselves."""

from __future__ import annotations

from lit_spec.answers.owners import QuotaName
from lit_spec.documented import Documented
from lit_spec.mistakes import Mistake


class ExceededQuota(Documented):
    """A quota, and what the owner uses of it, without what was asked for."""

    name: QuotaName
    """Which quota it is."""
    used: int
    """How much is used."""
    allowed: int
    """How much may be used."""


class Problem(Documented):
    """A problem (RFC 9457)."""

    type: str
    """Stable, for example /problems/upload-in-use."""
    title: str
    """The same for every problem of this type."""
    status: int
    """The HTTP status of the answer."""
    detail: str
    """What is wrong and what to do."""
    errors: list[Mistake] | None = None
    """The wrong fields, if fields are wrong."""
    quota: ExceededQuota | None = None
    """The quota, if one would be exceeded."""
