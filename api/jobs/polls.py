"""Answers polls of a job from memory, before the request is routed: most polls find that nothing has changed.

What is answered is what the endpoint `get_job` would answer; whatever is not known here goes to it.
"""

from __future__ import annotations

from fastapi import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.auth import READING_METHODS, known_caller
from api.http.conditional import Conditions
from api.http.context import Context
from lit_spec.scopes import Scope as KeyScope

PREFIX = "/v1/jobs/"


class JobPolls:
    """ASGI middleware, inside those that log requests and check headers."""

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        """`route`: that of `get_job`, under which these requests are counted."""
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._known_answer(scope) if scope["type"] == "http" else None
        await (self._app if response is None else response)(scope, receive, send)

    def _known_answer(self, scope: Scope) -> Response | None:
        """None for any request but a plain poll, and for a caller or a job that is not known."""
        path: str = scope["path"]
        if not path.startswith(PREFIX) or scope["method"] not in READING_METHODS or scope["query_string"]:
            return None
        headers = dict(scope["headers"])
        if b"authorization" not in headers or b"if-match" in headers:
            return None
        context: Context = scope["app"].state.context
        caller = known_caller(headers[b"authorization"].decode("latin-1"), context)
        if caller is None or KeyScope.READ not in caller.scopes:
            return None
        shown = context.shown_jobs.known((caller.owner, path.removeprefix(PREFIX)))
        if shown is None:
            return None
        scope["state"]["caller"] = caller
        scope["route"] = self._route
        known = headers.get(b"if-none-match")
        conditions = Conditions(None if known is None else known.decode("latin-1"), None)
        return conditions.respond(shown, scope["method"])
