"""Tells the audit log through which request somebody acts."""

from __future__ import annotations

import re
import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.ledger.audit import Actor, acting

REQUEST_ID = b"x-request-id"
_ID = re.compile(r"[!-~]{1,128}")


class Actors:
    """ASGI middleware: an Actor for each request. Who sends it is noted as soon as it is known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        with acting(Actor(request_id=request_id(scope), address=client[0] if client else None)):
            await self._app(scope, receive, send)


def request_id(scope: Scope) -> str:
    """The id that a proxy or the caller gave the request in X-Request-ID, or a new one."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == REQUEST_ID), "")
        state["request_id"] = given if _ID.fullmatch(given) else secrets.token_hex(16)
    found: str = state["request_id"]
    return found
