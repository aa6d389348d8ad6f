"""Calls about webhooks, and about the caller and the service."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from lit_client.addresses import path_to
from lit_client.answers import parse, parse_object
from lit_client.synchronous.administration import Administration
from lit_client.synchronous.calls import Calls
from lit_client.synchronous.pages import PAGE_ITEMS
from lit_spec.answers.owners import Me

JsonObject = dict[str, Any]


class AccountCalls(Calls):
    """Webhooks, the caller, and the service itself. Answers are JSON objects with the fields of docs/api.md."""

    def create_webhook(self, url: str, **fields: Any) -> JsonObject:
        """Register an endpoint. `fields`: events, name, enabled, tags. The answer has the `secret`, this once."""
        return parse_object(self._post("/v1/webhooks", {"url": url, **fields}, None))

    def webhooks(self, *, limit: int | None = None) -> Iterator[JsonObject]:
        """The owner's endpoints."""
        return self._objects("/v1/webhooks", {}, limit)

    def webhook(self, webhook_id: str) -> JsonObject:
        """One endpoint. Raises ProblemError `not-found`."""
        return parse_object(self._get(path_to("webhooks", webhook_id)))

    def change_webhook(self, webhook_id: str, **fields: Any) -> JsonObject:
        """Change an endpoint's url, events, name, enabled or tags."""
        path = path_to("webhooks", webhook_id)
        return parse_object(self._connection.request("PATCH", path, repeatable=True, json=fields))

    def delete_webhook(self, webhook_id: str) -> None:
        """Remove an endpoint with its deliveries."""
        self._connection.request("DELETE", path_to("webhooks", webhook_id), repeatable=True)

    def test_webhook(self, webhook_id: str) -> JsonObject:
        """Send a `ping` to an endpoint."""
        path = path_to("webhooks", webhook_id, "test")
        return parse_object(self._connection.request("POST", path, repeatable=False))

    def rotate_webhook_secret(self, webhook_id: str) -> JsonObject:
        """A new secret, which the answer has this once; the old one signs too for a day."""
        path = path_to("webhooks", webhook_id, "rotate-secret")
        return parse_object(self._connection.request("POST", path, repeatable=False))

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, limit: int | None = None
    ) -> Iterator[JsonObject]:
        """An endpoint's deliveries, newest first, with their attempts."""
        return self._objects(
            path_to("webhooks", webhook_id, "deliveries"), {} if state is None else {"state": state}, limit
        )

    def redeliver(self, webhook_id: str, delivery_id: str) -> JsonObject:
        """Send a delivery again."""
        path = path_to("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return parse_object(self._connection.request("POST", path, repeatable=False))

    def me(self) -> Me:
        """Who the service takes this client for: owner, key, scopes; and what the owner uses and may use."""
        return parse(Me, self._get("/v1/me"))

    @property
    def administration(self) -> Administration:
        """Keys, quotas and the audit log, for keys with the scope `admin`."""
        return Administration(self._connection)

    def readiness(self) -> httpx.Response:
        """The answer of `/readyz`: 200, or a problem that says what is missing. Raises httpx.TransportError."""
        return self._connection.request_once("GET", "/readyz")

    def service_version(self) -> str:
        """The version of the service."""
        description = parse_object(self._get("/openapi.json"))
        return str(description.get("info", {}).get("version", "unknown"))

    def _objects(self, path: str, filters: Mapping[str, Any], limit: int | None) -> Iterator[JsonObject]:
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            params = {**filters, "limit": PAGE_ITEMS if left is None else min(PAGE_ITEMS, left)}
            page = parse_object(self._get(path, params=params | ({"cursor": cursor} if cursor else {})))
            items: list[JsonObject] = page.get("items", [])
            yield from items
            left = None if left is None else left - len(items)
            cursor = page.get("next_cursor")
            if cursor is None:
                return
