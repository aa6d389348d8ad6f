"""What can go wrong between this client and a LIT service."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from lit_client.models import Job, JobError, Upload, UploadKind
from lit_spec.states import JobState

OFFICIAL_PREFIX = "/problems/"
KEY_VARIABLE = "LIT_API_KEY"
UPLOAD_WORDS = {UploadKind.TEACHER: "teacher", UploadKind.DATASET: "data set"}
TEMPORARY = frozenset({429, 502, 503, 504})


class FieldProblem(BaseModel):
    """One field of a request that the service refused."""

    model_config = ConfigDict(extra="ignore")

    field: str
    message: str


class LitError(Exception):
    """Base of this package's errors. `str()` says what is wrong, in a sentence."""

    fields: Sequence[str] = ()
    """The fields of a request that are wrong, as dotted paths."""


class InvalidAddress(LitError):
    """What is given as the address of a service can't be one."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url!r} is not the address of a service ({reason}): correct --url or LIT_URL.")


class InvalidKey(LitError):
    """What is given as an API key can't be one. The message does not show it, because most of it may be a secret."""

    def __init__(self) -> None:
        super().__init__(
            f"The API key has characters other than printable ASCII: correct {KEY_VARIABLE}, or Client(api_key=…)."
        )


class ServiceUnreachable(LitError):
    """No answer came: nothing listens at the address, its name is unknown, or the connection broke for every try."""


class TransferError(LitError):
    """An upload or download could not be finished. The same call again continues where this one stopped."""


class ChecksumError(TransferError):
    """A downloaded file does not have the sha256 of the manifest, even after a second download."""


class UnexpectedAnswer(LitError):
    """Something other than a LIT service answered, for example a proxy."""


class StreamUnavailable(UnexpectedAnswer):
    """The service is older and sends no streams of events."""


class WaitTimeout(LitError):
    """A wait reached its `timeout`."""


class InspectionFailed(LitError):
    """The service can't use an uploaded file as what it was sent for, a teacher or a data set; `failure` says why."""

    def __init__(self, upload: Upload, failure: JobError) -> None:
        what = UPLOAD_WORDS.get(upload.kind, upload.kind)
        super().__init__(f"{upload.filename} can't be used as a {what}: {failure.detail}")
        self.upload = upload
        self.failure = failure
        self.fields = [] if failure.field is None else [failure.field]


class JobFailed(LitError):
    """A job has failed or was cancelled, so there is no student."""

    def __init__(self, job: Job) -> None:
        why = f": {job.error}" if job.error is not None else "."
        super().__init__(f"{job.id} {job.state if job.state == JobState.FAILED else f'was {job.state}'}{why}")
        self.job = job


class MissingCore(LitError):
    """A model or data in memory needs torch, which is not installed."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(
            f"{what[:1].upper()}{what[1:]} needs {package}, which is not installed: pip install "
            "'lit-compress[core]', or give a file."
        )


class InspectedOtherwise(LitError):
    """Another request changed how the teacher is inspected, its architecture or its weights, while this one waited."""

    def __init__(self, upload_id: str, field: str) -> None:
        super().__init__(
            f"Another request changed the {field} of {upload_id}, and an upload has only one at a time: try again."
        )


class ProblemError(LitError):
    """The service refused a request and said why (RFC 9457).

    `type` is stable, for example `job-finished`. `errors` are the wrong fields, if any. `retry_after` is how many
    seconds the service asks to wait before the next try. `advice` says what to do on the client's side.
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
        advice: str = "",
    ) -> None:
        self.type = type
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors or []
        self.fields = [error.field for error in self.errors]
        self.retry_after = retry_after
        super().__init__(self._sentence(advice))

    @classmethod
    def from_response(cls, response: httpx.Response) -> Self:
        """The problem in an answer, or else its status as a problem. The body must have been read."""
        body = _json_object(response)
        return cls(
            type=str(body.get("type") or "about:blank").removeprefix(OFFICIAL_PREFIX),
            status=response.status_code,
            title=str(body.get("title") or _phrase(response.status_code)),
            detail=str(body.get("detail") or ""),
            errors=_field_problems(body.get("errors")),
            retry_after=_seconds(response.headers.get("Retry-After")),
            advice=_advice_on_keys(response) if response.status_code == HTTPStatus.UNAUTHORIZED else "",
        )

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed soon: the service is busy, restarting or not ready yet.

        An owner who has reached a quota is told at once, because it may take long until there is room.
        """
        return self.status in TEMPORARY and self.type != "quota-exceeded"

    def _sentence(self, advice: str) -> str:
        text = self.detail or f"The service answered {self.status} {self.title}"
        lines = [text if text.endswith((".", "!", "?")) else f"{text}."]
        lines += [advice] if advice else []
        # A message that the detail already contains is not repeated.
        lines += [f"  {e.field}: {e.message}" for e in self.errors if e.message not in text]
        return "\n".join(lines)


def _advice_on_keys(response: httpx.Response) -> str:
    if "Authorization" in response.request.headers:
        return f"The key is that of {KEY_VARIABLE} or Client(api_key=…): correct it, or leave it out if none is needed."
    return f"Set {KEY_VARIABLE} to the secret of a key (in Python, Client(api_key=…) too)."


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
