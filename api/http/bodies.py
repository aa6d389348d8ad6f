"""Reads JSON request bodies: checks their size and that the ledger can store them; FastAPI then checks their fields."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn, Protocol

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from api.http import auth
from api.http.callers import Caller
from api.http.context import Context, get_context
from api.http.problems import Problem, invalid_field
from jobs.database import jsonb
from jobs.ledger.requests import parse
from lit_spec.mistakes import WHOLE

JSON = "application/json"
JSON_BYTES = 1 << 20
"""The largest JSON body. A job's request has a few kilobytes."""
SMALL_BYTES = 16 << 10
"""Up to here a body is parsed at once; a larger one in a thread, because it would keep others waiting."""
MOST_NAMES = 10_000
FEW_NAMES = 8
"""Together, the objects of a body have at most MOST_NAMES names; those with FEW_NAMES or less don't count, because
there may be a list of many. Each name may be a mistake, which takes time to describe, and meanwhile no other request is
answered."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRequest(Request):
    """A request whose body has been read and parsed. FastAPI asks it for `body()` and `json()`."""

    def __init__(self, request: Request, content: bytes, value: dict[str, Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._content = content
        self._value = value

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> dict[str, Any]:
        return self._value


class JsonRoute(APIRoute):
    """A route with a typed JSON body. The body is read here: FastAPI would read it without a limit and accept NaN.

    The checks are in this order: key, path, size of the body, JSON, fields.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        accepted = self._accepted_media_types()
        if not accepted:
            return handle

        async def read_and_handle(request: Request) -> Response:
            await check_caller(request)
            content, value = await _read_json(request, accepted)
            return await handle(JsonRequest(request, content, value))

        return read_and_handle

    def _accepted_media_types(self) -> list[str]:
        if self.body_field is None:
            return []
        return list(dict.fromkeys([JSON, self.body_field.field_info.media_type]))  # type: ignore[attr-defined]


class CreationEndpoint(Protocol):
    """An endpoint that makes what a typed JSON body describes."""

    def __call__(
        self, body: Any, sent: dict[str, Any], owner: str, context: Context, idempotency_key: str | None
    ) -> Coroutine[Any, Any, Response]: ...


class CreationRoute(JsonRoute):
    """A JsonRoute that calls its endpoint, a CreationEndpoint, itself, after the same checks in the same order.

    FastAPI reads the endpoint's signature for the documentation only: to follow it at each request took a fifth of the
    time in which a job is made. The endpoint may declare nothing else, and the route no dependencies.
    """

    def get_route_handler(self) -> Handler:
        endpoint: CreationEndpoint = self.endpoint
        accepted = self._accepted_media_types()
        body_type: Any = self.body_field.field_info.annotation  # type: ignore[union-attr]

        async def create(request: Request) -> Response:
            caller = await check_caller(request)
            _, sent = await _read_json(request, accepted)
            key = request.headers.get("Idempotency-Key")
            return await endpoint(parse(body_type, sent), sent, caller.owner, get_context(request), key)

        return create


async def check_caller(request: Request) -> Caller:
    """Refuse a missing key or a wrong path before the body is read. FastAPI would read the body first."""
    return await auth.check_caller(request, get_context(request))


async def _sent_json(request: Request) -> dict[str, Any]:
    value: dict[str, Any] = await request.json()
    return value


SentJson = Annotated[dict[str, Any], Depends(_sent_json)]
"""The body as it was sent, without the defaults of its model. For routes of the class JsonRoute."""


async def _read_json(request: Request, accepted: list[str]) -> tuple[bytes, dict[str, Any]]:
    """The body, and the object that it is. Raises Problem 400, 413, 415 or 422."""
    content = await _read(request, accepted)
    return content, await run_in_threadpool(parse_json, content) if len(content) > SMALL_BYTES else parse_json(content)


async def _read(request: Request, accepted: list[str]) -> bytes:
    """The body. Raises Problem 413 or 415."""
    sent = content_type(request)
    if sent not in accepted:
        detail = f"the Content-Type is {sent or 'missing'}: send the body as {' or '.join(accepted)}"
        raise Problem(415, "unsupported-media-type", detail)
    too_large = Problem(413, "too-large", f"the body has more than {JSON_BYTES} bytes: send a smaller one")
    if (content_length(request) or 0) > JSON_BYTES:
        raise too_large  # before the body is read
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise too_large
    return bytes(body)


def content_type(request: Request) -> str:
    """The request's content type without its parameters, in lower case; empty if there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def content_length(request: Request) -> int | None:
    """The request's Content-Length in bytes; None if it has none."""
    announced = request.headers.get("Content-Length", "")
    return int(announced) if announced.isdecimal() else None


def parse_json(content: bytes) -> dict[str, Any]:
    """Parse a JSON object that the ledger can store. Raises Problem 400 or 422."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_Members())
    except (ValueError, RecursionError) as bad:
        raise Problem(400, "bad-request", f"the body is not valid JSON: {bad}") from bad
    try:
        jsonb.check(value)
    except (ValueError, RecursionError) as bad:
        raise Problem(400, "bad-request", f"the body can't be stored: {bad}") from bad
    if not isinstance(value, dict):
        raise Problem(400, "bad-request", "the body is not a JSON object: send an object, {…}")
    return value


class _Members:
    """Makes the objects of one body. Raises ValueError for a name that is given twice, and Problem 422."""

    def __init__(self) -> None:
        self._names = 0

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > FEW_NAMES:
            self._names += len(pairs)
            if self._names > MOST_NAMES:
                raise invalid_field(WHOLE, f"has more than {MOST_NAMES} fields: send a smaller one")
        members = dict(pairs)
        if len(members) < len(pairs):
            twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise ValueError(f"{twice!r} is given twice in one object")
        return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
