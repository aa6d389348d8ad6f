"""/v1/audit: who changed what, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from api.http.auth import ADMIN
from api.http.context import InReads
from api.http.pages import InPages
from jobs.ledger import audit
from lit_spec.answers.audit import AuditEntry
from lit_spec.answers.pages import Page

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[ADMIN])


@router.get("")
def list_entries(
    session: InReads,
    page: InPages,
    owner: Annotated[str | None, Query(description="Of the caller.")] = None,
    key: Annotated[str | None, Query(description="Id of the caller's key.")] = None,
    action: Annotated[str | None, Query(description="As in `job.create`.")] = None,
    object: Annotated[str | None, Query(description="Id of what was changed.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="From this time on.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this time.")] = None,
) -> Page[AuditEntry]:
    """What callers changed, and what they were not allowed to, newest first."""
    rows = audit.list_page(
        session,
        owner=owner,
        key_id=key,
        action=action,
        object_id=object,
        since=since,
        until=until,
        after=page.after(),
        limit=page.limit + 1,
    )
    return page.make_page(rows, AuditEntry.model_validate)
