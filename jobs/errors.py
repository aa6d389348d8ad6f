"""What the ledger refuses. The API turns each into a problem of the same type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Self

from lit_spec.answers.owners import QuotaName
from lit_spec.mistakes import Mistake, as_text


class NotFound(Exception):
    """The thing does not exist, or belongs to another owner. The error does not say which."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"there is no {kind} {id}")
        self.kind = kind
        self.id = id


class Conflict(Exception):
    """The thing's state forbids what was asked. `type` is the problem's stable slug."""

    def __init__(self, type: str, detail: str) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail


class QuotaExceeded(Exception):
    """The owner uses all that is allowed. `used` counts what there is, without what was asked for."""

    def __init__(self, quota: QuotaName, used: int, allowed: int, detail: str) -> None:
        super().__init__(detail)
        self.quota = quota
        self.used = used
        self.allowed = allowed
        self.detail = detail


class TooManyRequests(Exception):
    """The same was asked for too often. It may be asked for again after so many seconds."""

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds


class RequestRefused(Exception):
    """A request for a job or a study can't be carried out. `mistakes` names its wrong fields.

    `type` is the problem's stable slug: `invalid-request`, `bad-teacher`, `upload-unfinished` or `inspected-otherwise`.
    """

    def __init__(self, type: str, detail: str, mistakes: Iterable[Mistake]) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail
        self.mistakes = list(mistakes)

    @classmethod
    def invalid(cls, mistakes: Iterable[Mistake]) -> Self:
        """Fields of the request are wrong; the detail lists all of them."""
        found = list(mistakes)
        return cls("invalid-request", as_text(found), found)

    @classmethod
    def invalid_field(cls, field: str, message: str) -> Self:
        return cls.invalid([Mistake(field, message)])

    def renamed(self, rename: Callable[[str], str]) -> RequestRefused:
        """The same refusal, with other names for the fields."""
        mistakes = [Mistake(rename(wrong.field), wrong.message) for wrong in self.mistakes]
        if self.type == "invalid-request":
            return RequestRefused.invalid(mistakes)
        return RequestRefused(self.type, self.detail, mistakes)


class Stale(Exception):
    """Another attempt has the job, or another request has the upload. The caller must stop and change nothing."""
