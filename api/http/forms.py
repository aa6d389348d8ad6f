"""Multipart forms: bounded, told apart from JSON at the same address, then typed by FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile
from starlette.routing import Match
from starlette.types import Scope

from api.http.bodies import JSON_BYTES, Handler, check_caller, content_length, content_type, parse_json
from api.http.context import get_context, in_transaction
from api.http.problems import Problem, disk_problem
from jobs.ledger import idempotency, quotas

MULTIPART = "multipart/form-data"
MAX_FILES = 3
MAX_PARTS = MAX_FILES + 1
"""The JSON may come as a file or as text."""


class FormRoute(APIRoute):
    """A route for forms. It leaves every other content type to the next route with the same path and method."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if match is Match.FULL and content_type(Request(scope)) != MULTIPART:
            return Match.NONE, {}
        return match, child_scope

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            await check_caller(request)
            await _check_quotas(request, _check_length(request))
            await _read_form(request)
            return await handle(request)

        return check_and_handle


def _check_length(request: Request) -> int:
    """The form's bytes. Its files are kept in temporary files while it is read, so its size must be known before."""
    length = content_length(request)
    if length is None:
        raise Problem(
            411, "length-required", "the form has no Content-Length: send one, or send the files through /v1/uploads"
        )
    most = MAX_FILES * get_context(request).settings.max_upload_bytes + 2 * JSON_BYTES
    if length > most:
        raise Problem(
            413,
            "too-large",
            f"the form has {length} bytes, but this service takes up to {most}: send large files through /v1/uploads",
        )
    return length


async def _check_quotas(request: Request, length: int) -> None:
    """Refuse a form for which there is no room before it is read. Raises QuotaExceeded.

    Whether the service has its files already is known only later, so they count here.
    """
    context, owner = get_context(request), request.state.caller.owner
    key = request.headers.get("Idempotency-Key")

    def check(session: Session) -> None:
        if key is not None and idempotency.is_known(session, owner, key):
            return  # it makes nothing
        quotas.require_room_for_job(session, owner, context.settings.quotas)
        quotas.require_room_for_bytes(session, owner, max(0, length - 2 * JSON_BYTES), context.settings.quotas)

    await in_transaction(context, check)


async def _read_form(request: Request) -> None:
    """Read the form, which FastAPI then finds read: it would turn a full disk into a form that can't be parsed.

    So the limits are here, because those of FastAPI's `form_limits` come too late.
    """
    try:
        await request.form(max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=JSON_BYTES)
    except OSError as failure:
        raise disk_problem("the folder for temporary files (TMPDIR)", failure) from failure


async def refuse_repeated_parts(request: Request) -> None:
    """Raises Problem 400 for a form that has a part twice, because its model would take only the last one."""
    form = await request.form()
    if len(form.multi_items()) != len(set(form)):
        raise Problem(400, "bad-request", "the form has a part twice: send each part once")


def parse_json_part(part: Any) -> Any:
    """The JSON object in a part of a form, whether it was sent as text or as a file. Raises Problem 400 or 413."""
    if isinstance(part, UploadFile):
        if (part.size or 0) > JSON_BYTES:
            raise Problem(413, "too-large", f"the JSON has more than {JSON_BYTES} bytes: send a smaller one")
        return parse_json(part.file.read())
    return parse_json(part.encode()) if isinstance(part, str) else part
