"""Tells the audit log through which request somebody acts."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.client_addresses import client_address
from api.http.request_ids import current_request_id
from jobs.ledger.audit import Actor, acting


class Actors:
    """ASGI middleware: an Actor for each request. Who sends it is noted as soon as it is known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with acting(Actor(request_id=current_request_id(), address=client_address(scope))):
            await self._app(scope, receive, send)
