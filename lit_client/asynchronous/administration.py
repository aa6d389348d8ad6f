"""`client.administration`: keys and quotas of all owners, and the audit log, for keys with the scope `admin`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from lit_client.addresses import path_to
from lit_client.answers import parse
from lit_client.asynchronous.connection import AsyncConnection
from lit_client.asynchronous.pages import paged
from lit_spec.answers.audit import AuditEntry
from lit_spec.answers.keys import Key, NewKey
from lit_spec.answers.owners import OwnerQuotas
from lit_spec.answers.pages import Page
from lit_spec.requests.access import KeyRequest, RotateRequest
from lit_spec.scopes import USUAL_SCOPES, Scope


class AsyncAdministration:
    """What administrators do. Every method raises a LitError when it fails."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create_key(
        self,
        name: str,
        *,
        owner: str | None = None,
        scopes: list[Scope] | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key. Its secret is shown only here. `owner` None: the key is an owner of its own."""
        asked = KeyRequest(name=name, owner=owner, scopes=scopes or list(USUAL_SCOPES), expires_at=expires_at)
        body = asked.model_dump(mode="json")
        return parse(NewKey, await self._connection.request("POST", path_to("keys"), repeatable=False, json=body))

    def keys(self, *, owner: str | None = None, limit: int | None = None) -> AsyncIterator[Key]:
        """The keys of one owner or of all, newest first, without their secrets."""
        filters = {} if owner is None else {"owner": owner}
        return paged(self._connection, Page[Key], path_to("keys"), filters, limit)

    async def key(self, key_id: str) -> Key:
        return parse(Key, await self._connection.request("GET", path_to("keys", key_id), repeatable=True))

    async def rotate_key(self, key_id: str, *, grace_seconds: int = 0, expires_at: datetime | None = None) -> NewKey:
        """Make a key with another secret for the same owner and scopes. The old one is valid for `grace_seconds`.

        Raises ProblemError `key-invalid` if the old one is revoked, expired or already replaced.
        """
        body = RotateRequest(grace_seconds=grace_seconds, expires_at=expires_at).model_dump(mode="json")
        path = path_to("keys", key_id, "rotate")
        return parse(NewKey, await self._connection.request("POST", path, repeatable=False, json=body))

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key: the next request with it is refused."""
        await self._connection.request("DELETE", path_to("keys", key_id), repeatable=True)

    async def quotas(self, owner: str) -> OwnerQuotas:
        """What an owner uses and may use."""
        path = path_to("owners", owner, "quotas")
        return parse(OwnerQuotas, await self._connection.request("GET", path, repeatable=True))

    async def set_quotas(self, owner: str, quotas: Mapping[str, int | None]) -> OwnerQuotas:
        """Set `jobs_queued`, `jobs_running` and `bytes`. What is left out is the service's; None is no limit."""
        path = path_to("owners", owner, "quotas")
        return parse(OwnerQuotas, await self._connection.request("PUT", path, repeatable=True, json=dict(quotas)))

    def audit(
        self,
        *,
        owner: str | None = None,
        key: str | None = None,
        action: str | None = None,
        object: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditEntry]:
        """What callers changed, and what they were not allowed to, newest first."""
        filters = {"owner": owner, "key": key, "action": action, "object": object}
        times = {name: time.isoformat() for name, time in (("since", since), ("until", until)) if time is not None}
        given = {name: value for name, value in filters.items() if value is not None} | times
        return paged(self._connection, Page[AuditEntry], path_to("audit"), given, limit)
