"""Problems (RFC 9457): every error of the API, with a stable type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.http import schemas
from api.http.request_ids import HEADER
from jobs import disks
from jobs.database import outages
from jobs.errors import Conflict, NotFound, QuotaExceeded, RequestRefused, Stale, TooManyRequests
from jobs.storage.faults import StorageFault
from lit_spec.mistakes import Mistake, as_text, mistakes_in

RETRY_SECONDS = 2
QUOTA_SECONDS = 30
"""After a quota was exceeded: jobs start and finish by themselves, but seldom within seconds."""
MEDIA_TYPE = "application/problem+json"
PREFIX = "/problems/"

log = structlog.get_logger()

TITLES = {
    "bad-request": "The request is malformed",
    "unauthorized": "An API key is needed",
    "forbidden-origin": "This service answers local programs only",
    "insufficient-scope": "The key may not do this",
    "not-found": "Not found",
    "method-not-allowed": "This method is not allowed here",
    "artifact-removed": "The files of the job were removed",
    "upload-unfinished": "The upload is not finished",
    "upload-in-use": "A job or study needs this upload",
    "upload-gone": "An upload that is needed was deleted",
    "upload-offset-mismatch": "The upload continues at another offset",
    "upload-completing": "Another request completes the upload",
    "upload-parts-missing": "The object store lacks parts of the upload",
    "parts-signed-too-often": "The parts of the upload were signed too often",
    "direct-upload-unavailable": "The service takes all bytes itself",
    "upload-bytes-lost": "The bytes of the upload are no longer in storage",
    "idempotency-key-reused": "The Idempotency-Key belongs to another request",
    "key-invalid": "The key is not valid",
    "job-finished": "The job has already finished",
    "job-not-finished": "The job has not finished yet",
    "study-finished": "The study has already finished",
    "study-not-finished": "The study has not finished yet",
    "study-outdated": "This version can't read the study",
    "too-many-webhooks": "There are as many webhooks as an owner may have",
    "webhook-disabled": "The webhook is disabled",
    "length-required": "The request has no Content-Length",
    "precondition-failed": "The thing has changed",
    "too-large": "The request is too large",
    "unsupported-media-type": "The route does not take this content type",
    "range-not-satisfiable": "The file has no such range",
    "invalid-request": "The request has wrong fields",
    "bad-dataset": "The data set can't be used",
    "bad-teacher": "The teacher can't be used",
    "bad-upload": "The file can't be a teacher",
    "checksum-mismatch": "The bytes are not those announced",
    "too-many-streams": "There are as many streams of events as may be open",
    "internal-error": "The service failed",
    "inspected-otherwise": "Another request changed the teacher's architecture",
    "quota-exceeded": "The owner uses all that is allowed",
    "too-many-requests": "The same was asked for too often",
    "inspection-pending": "An upload is still being inspected",
    "insufficient-storage": "A disk of the service is full",
    "unavailable": "The service is not ready",
}


class Problem(Exception):
    """An answer that is an error. `type` is a key of TITLES."""

    def __init__(
        self,
        status: int,
        type: str,
        detail: str,
        *,
        errors: Sequence[Mistake] = (),
        headers: dict[str, str] | None = None,
        quota: schemas.ExceededQuota | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.detail = detail
        self.quota = quota
        self.errors = list(errors)
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        body = schemas.Problem(
            type=PREFIX + self.type,
            title=TITLES[self.type],
            status=self.status,
            detail=self.detail,
            errors=self.errors or None,
            quota=self.quota,
        )
        return JSONResponse(body.model_dump(mode="json", exclude_none=True), self.status, self.headers, MEDIA_TYPE)


def invalid(errors: Iterable[Mistake]) -> Problem:
    """422: fields of the request are wrong. The detail lists all of them."""
    found = list(errors)
    return Problem(422, "invalid-request", as_text(found), errors=found)


def invalid_field(field: str, message: str) -> Problem:
    return invalid([Mistake(field=field, message=message)])


def disk_problem(where: str, failure: OSError) -> Problem:
    """The problem of a disk that can't be read or written. `where` says which, as in "the storage"."""
    log.error("disk can't be used", where=where, error=str(failure))
    if disks.is_full(failure):
        return disk_full(f"the disk of {where} is full")
    return unavailable(f"{where} can't be used ({disks.reason(failure)}): try again")


def disk_full(detail: str) -> Problem:
    """507, which nothing but somebody's work on the disk will change."""
    return Problem(507, "insufficient-storage", f"{detail}: free space on it, then send the request again")


def unavailable(detail: str, seconds: int = RETRY_SECONDS) -> Problem:
    """503. The caller may try again after so many seconds."""
    return Problem(503, "unavailable", detail, headers={"Retry-After": str(seconds)})


def install(app: FastAPI) -> None:
    """Turn every error that leaves a handler into a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(Conflict, _conflict)
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(QuotaExceeded, _quota_exceeded)
    app.add_exception_handler(TooManyRequests, _too_many)
    app.add_exception_handler(Stale, _stale)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    for outage in (OperationalError, InterfaceError, InternalError, PoolTimeout):
        app.add_exception_handler(outage, _outage)
    app.add_exception_handler(StorageFault, _storage_fault)
    app.add_exception_handler(Exception, _failure)


def _problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - for the type checker, here and below
    return error.response()


def _not_found(_request: Request, error: Exception) -> JSONResponse:
    return Problem(404, "not-found", _sentence(error)).response()


def _conflict(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Conflict)  # noqa: S101
    return Problem(409, error.type, _sentence(error)).response()


_REFUSALS = {
    "invalid-request": 422,
    "bad-dataset": 422,
    "bad-teacher": 422,
    "upload-unfinished": 409,
    "inspected-otherwise": 409,
}


def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)  # noqa: S101
    return Problem(_REFUSALS[error.type], error.type, error.detail, errors=error.mistakes).response()


def _quota_exceeded(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QuotaExceeded)  # noqa: S101
    quota = schemas.ExceededQuota(name=error.quota, used=error.used, allowed=error.allowed)
    headers = {"Retry-After": str(QUOTA_SECONDS)}
    return Problem(429, "quota-exceeded", _sentence(error), headers=headers, quota=quota).response()


def _too_many(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TooManyRequests)  # noqa: S101
    return Problem(429, "too-many-requests", _sentence(error), headers={"Retry-After": str(error.seconds)}).response()


def _stale(_request: Request, _error: Exception) -> JSONResponse:
    return Problem(
        409,
        "upload-offset-mismatch",
        "another request has continued this upload: ask for the offset, and continue from there",
    ).response()


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """422 with every wrong parameter, and with every wrong field of the body under its path in the request."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = []
    in_body = []
    for entry in error.errors():
        place, *location = entry["loc"]
        if place == "body":
            in_body.append({**entry, "loc": tuple(location)})
        else:
            found.append(Mistake(field=".".join(map(str, location)) or str(place), message=entry["msg"]))
    if in_body:
        body_type = request.scope["route"].body_field.field_info.annotation
        body = dict(error.body) if isinstance(error.body, FormData) else error.body
        found += mistakes_in(body_type, body, in_body)
    return invalid(found).response()


_BY_STATUS = {
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
}


def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    type = _BY_STATUS.get(error.status_code, "bad-request")
    phrase = HTTPStatus(error.status_code).phrase
    detail = TITLES[type] if str(error.detail) == phrase else str(error.detail)
    return Problem(error.status_code, type, detail, headers=dict(error.headers or {})).response()


def _disconnected(_request: Request, _error: Exception) -> JSONResponse:
    # Nobody reads this answer, but a broken connection must not be logged as a failure of the service.
    return Problem(400, "bad-request", "the connection broke: send the request again").response()


def _outage(_request: Request, error: Exception) -> JSONResponse:
    if not outages.is_outage(error):
        raise error
    log.warning("ledger out of reach", error=outages.first_line(error))
    meaning = outages.explain(error)
    if outages.is_disk_full(error):
        return disk_full(f"{meaning}, and only confirmed changes were made").response()
    return unavailable(f"{meaning}, and only confirmed changes were made: try again").response()


def _storage_fault(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StorageFault)  # noqa: S101
    return disk_problem("the storage", error).response()


def _failure(request: Request, _error: Exception) -> JSONResponse:
    # Starlette logs the traceback; the caller must not see internals. The middleware that sends the id is passed by.
    request_id = getattr(request.state, "request_id", None)
    headers = {} if request_id is None else {HEADER: request_id}
    detail = "the service failed at this request: see its log"
    return Problem(500, "internal-error", detail, headers=headers).response()


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
