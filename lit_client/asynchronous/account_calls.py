"""Calls about webhooks, and about the caller and the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import httpx

from lit_client.addresses import path_to
from lit_client.answers import parse, parse_object
from lit_client.asynchronous.administration import AsyncAdministration
from lit_client.asynchronous.calls import AsyncCalls
from lit_client.models import Me, Page, Webhook, WebhookDelivery, WebhookWithSecret


class AsyncAccountCalls(AsyncCalls):
    """Webhooks, the caller, and the service itself."""

    async def create_webhook(
        self,
        url: str,
        *,
        events: Collection[str] | None = None,
        name: str | None = None,
        tags: Collection[str] = (),
        enabled: bool = True,
    ) -> WebhookWithSecret:
        """Let an address be told what happens. `events` None: of everything. The secret is shown only here.

        `tags`: only jobs and studies with one of these; none: all, and uploads.
        """
        body = {
            "url": url,
            "events": None if events is None else list(events),
            "name": name,
            "tags": list(tags),
            "enabled": enabled,
        }
        # Repeated after a lost answer, it would make a second one.
        return parse(
            WebhookWithSecret, await self._connection.request("POST", "/v1/webhooks", repeatable=False, json=body)
        )

    def webhooks(self, *, limit: int | None = None) -> AsyncIterator[Webhook]:
        """The owner's webhooks, newest first."""
        return self._paged(Page[Webhook], "/v1/webhooks", {}, limit)

    async def webhook(self, webhook_id: str) -> Webhook:
        """One webhook. Raises ProblemError `not-found`."""
        return parse(Webhook, await self._get(path_to("webhooks", webhook_id)))

    async def change_webhook(self, webhook_id: str, **changes: Any) -> Webhook:
        """Change a webhook's `url`, `events`, `name`, `tags` or `enabled`. `events` None: all; `name` None: none."""
        path = path_to("webhooks", webhook_id)
        return parse(Webhook, await self._connection.request("PATCH", path, repeatable=True, json=changes))

    async def delete_webhook(self, webhook_id: str) -> None:
        """Remove a webhook with its deliveries."""
        await self._connection.request("DELETE", path_to("webhooks", webhook_id), repeatable=True)

    async def test_webhook(self, webhook_id: str) -> WebhookDelivery:
        """Send a `ping`. Raises ProblemError `webhook-disabled`."""
        path = path_to("webhooks", webhook_id, "test")
        return parse(WebhookDelivery, await self._connection.request("POST", path, repeatable=False))

    async def rotate_webhook_secret(self, webhook_id: str) -> WebhookWithSecret:
        """A new secret, which is shown only here; messages are signed with the old one too for a day."""
        path = path_to("webhooks", webhook_id, "rotate-secret")
        return parse(WebhookWithSecret, await self._connection.request("POST", path, repeatable=False))

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, limit: int | None = None
    ) -> AsyncIterator[WebhookDelivery]:
        """What was or will be sent to a webhook, newest first. `state`: pending, delivered or dead."""
        filters = {} if state is None else {"state": state}
        return self._paged(Page[WebhookDelivery], path_to("webhooks", webhook_id, "deliveries"), filters, limit)

    async def delivery(self, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """One of them. Raises ProblemError `not-found`."""
        return parse(WebhookDelivery, await self._get(path_to("webhooks", webhook_id, "deliveries", delivery_id)))

    async def redeliver(self, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """Send it again, as soon as possible. Raises ProblemError `webhook-disabled`."""
        path = path_to("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return parse(WebhookDelivery, await self._connection.request("POST", path, repeatable=False))

    async def me(self) -> Me:
        """Who the service takes this client for: owner, key, scopes; and what the owner uses and may use."""
        return parse(Me, await self._get("/v1/me"))

    @property
    def administration(self) -> AsyncAdministration:
        """Keys, quotas and the audit log, for keys with the scope `admin`."""
        return AsyncAdministration(self._connection)

    async def readiness(self) -> httpx.Response:
        """The answer of `/readyz`: 200, or a problem that says what is missing. Raises httpx.TransportError."""
        return await self._connection.request_once("GET", "/readyz")

    async def service_version(self) -> str:
        """The version of the service."""
        description = parse_object(await self._get("/openapi.json"))
        return str(description.get("info", {}).get("version", "unknown"))
