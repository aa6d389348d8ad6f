"""What can go wrong between this client and a LIT service."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

OFFICIAL_PREFIX = "/problems/"


class FieldProblem(BaseModel):
    """One field of a request that the service refused."""

    model_config = ConfigDict(extra="ignore")

    field: str
    message: str


class LitError(Exception):
    """Base of everything that this package raises on purpose; `str()` is a sentence for people."""


class ServiceUnreachable(LitError):
    """No HTTP answer came: nobody listens, the name is unknown, or the connection broke for good."""


class TransferError(LitError):
    """An upload or download could not be finished; doing it again goes on where it stopped."""


class ChecksumError(TransferError):
    """A downloaded file is not what its manifest says, even when fetched anew."""


class UnexpectedAnswer(LitError):
    """Something else than a LIT service answered, for example a proxy."""


class WaitTimeout(LitError):
    """A wait reached its `timeout`."""


class InspectedOtherwise(LitError):
    """A teacher was inspected as another architecture meanwhile."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(
            f"{upload_id} was inspected as another architecture meanwhile: an upload has one at a time, so try again."
        )


class ProblemError(LitError):
    """The service refused a request and said why (RFC 9457).

    `type` is the stable word, as `job-finished`; `errors` are the fields to blame, if any are; `retry_after` is how
    many seconds the service asks to wait before trying again.
    """

    def __init__(
        self,
        *,
        type: str,
        status: int,
        title: str,
        detail: str = "",
        errors: list[FieldProblem] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.type = type
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after
        super().__init__(self._sentence())

    @classmethod
    def from_response(cls, response: httpx.Response) -> Self:
        """Read a problem. An answer without one is described by its status. The body must have been read."""
        body = _json_object(response)
        return cls(
            type=str(body.get("type") or "about:blank").removeprefix(OFFICIAL_PREFIX),
            status=response.status_code,
            title=str(body.get("title") or _phrase(response.status_code)),
            detail=str(body.get("detail") or ""),
            errors=_field_problems(body.get("errors")),
            retry_after=_seconds(response.headers.get("Retry-After")),
        )

    def _sentence(self) -> str:
        text = self.detail or f"The service answered {self.status} {self.title}"
        lines = [text if text.endswith((".", "!", "?")) else f"{text}."]
        # A message that the detail already contains is not repeated.
        lines += [f"  {e.field}: {e.message}" for e in self.errors if e.message not in text]
        return "\n".join(lines)


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _field_problems(entries: object) -> list[FieldProblem]:
    found = []
    for entry in entries if isinstance(entries, list) else []:
        try:
            found.append(FieldProblem.model_validate(entry))
        except ValidationError:
            continue  # the rest of the problem is still worth showing
    return found


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds; its date form is not used by this service."""
    return float(value) if value is not None and value.isdigit() else None
