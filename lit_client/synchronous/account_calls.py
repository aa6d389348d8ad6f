"""Calls about webhooks, and about the caller and the service."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import httpx

from lit_client.addresses import path_to
from lit_client.answers import parse, parse_object
from lit_client.models import Me, Page, Webhook, WebhookDelivery, WebhookWithSecret
from lit_client.synchronous.administration import Administration
from lit_client.synchronous.calls import Calls


class AccountCalls(Calls):
    """Webhooks, the caller, and the service itself."""

    def create_webhook(
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
        return parse(WebhookWithSecret, self._connection.request("POST", "/v1/webhooks", repeatable=False, json=body))

    def webhooks(self, *, limit: int | None = None) -> Iterator[Webhook]:
        """The owner's webhooks, newest first."""
        return self._paged(Page[Webhook], "/v1/webhooks", {}, limit)

    def webhook(self, webhook_id: str) -> Webhook:
        """One webhook. Raises ProblemError `not-found`."""
        return parse(Webhook, self._get(path_to("webhooks", webhook_id)))

    def change_webhook(self, webhook_id: str, **changes: Any) -> Webhook:
        """Change a webhook's `url`, `events`, `name`, `tags` or `enabled`. `events` None: all; `name` None: none."""
        path = path_to("webhooks", webhook_id)
        return parse(Webhook, self._connection.request("PATCH", path, repeatable=True, json=changes))

    def delete_webhook(self, webhook_id: str) -> None:
        """Remove a webhook with its deliveries."""
        self._connection.request("DELETE", path_to("webhooks", webhook_id), repeatable=True)

    def test_webhook(self, webhook_id: str) -> WebhookDelivery:
        """Send a `ping`. Raises ProblemError `webhook-disabled`."""
        path = path_to("webhooks", webhook_id, "test")
        return parse(WebhookDelivery, self._connection.request("POST", path, repeatable=False))

    def rotate_webhook_secret(self, webhook_id: str) -> WebhookWithSecret:
        """A new secret, which is shown only here; messages are signed with the old one too for a day."""
        path = path_to("webhooks", webhook_id, "rotate-secret")
        return parse(WebhookWithSecret, self._connection.request("POST", path, repeatable=False))

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, limit: int | None = None
    ) -> Iterator[WebhookDelivery]:
        """What was or will be sent to a webhook, newest first. `state`: pending, delivered or dead."""
        filters = {} if state is None else {"state": state}
        return self._paged(Page[WebhookDelivery], path_to("webhooks", webhook_id, "deliveries"), filters, limit)

    def delivery(self, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """One of them. Raises ProblemError `not-found`."""
        return parse(WebhookDelivery, self._get(path_to("webhooks", webhook_id, "deliveries", delivery_id)))

    def redeliver(self, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """Send it again, as soon as possible. Raises ProblemError `webhook-disabled`."""
        path = path_to("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return parse(WebhookDelivery, self._connection.request("POST", path, repeatable=False))

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
