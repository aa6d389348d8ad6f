"""Rows of one owner: one by its id, or a list in pages that stay valid while rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from jobs.database.models import ApiKey, AuditEntry, Job, Study, Upload, Webhook, WebhookDelivery
from jobs.errors import NotFound

RowT = TypeVar("RowT", Job, Study, Upload, Webhook, WebhookDelivery)
NAMES: dict[type[Any], str] = {
    Job: "job",
    Study: "study",
    Upload: "upload",
    Webhook: "webhook",
    WebhookDelivery: "delivery",
}

ListedT = TypeVar("ListedT", Job, Study, Upload, ApiKey, AuditEntry, Webhook, WebhookDelivery)


class PageCursor(NamedTuple):
    """Where a page of a list ended: creation time and id of its last item."""

    created_at: datetime
    id: str


def find_owned(
    session: Session, model: type[RowT], owner: str, row_id: str, *, lock: bool = False, delete: bool = False
) -> RowT:
    """The owner's row with this id, locked until the transaction ends if asked for.

    `lock` keeps others from changing it, `delete` also from adding rows that refer to it: only what deletes the row
    needs that. Raises NotFound, for another owner's row too.
    """
    query = select(model).where(model.id == row_id, model.owner == owner)
    if lock or delete:
        # What the session knows of the row may be older than the lock.
        query = query.with_for_update(key_share=not delete).execution_options(populate_existing=True)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotFound(NAMES[model], row_id)
    return row


def read_page(
    session: Session,
    model: type[RowT],
    owner: str,
    *,
    filters: Sequence[ColumnElement[bool]] = (),
    after: PageCursor | None = None,
    limit: int = 50,
) -> list[RowT]:
    """The owner's rows that pass all filters, newest first, beginning after the cursor."""
    return read_rows(session, model, filters=[model.owner == owner, *filters], after=after, limit=limit)


def read_rows(
    session: Session,
    model: type[ListedT],
    *,
    filters: Sequence[ColumnElement[bool]],
    after: PageCursor | None = None,
    limit: int = 50,
) -> list[ListedT]:
    """Like `read_page`, of all owners: for administrators."""
    query = select(model).where(*filters)
    if after is not None:
        query = query.where(tuple_(model.created_at, model.id) < tuple_(after.created_at, after.id))
    return list(session.scalars(query.order_by(model.created_at.desc(), model.id.desc()).limit(limit)))


def label_filters(
    model: type[Job] | type[Study], *, state: str | None, tag: str | None, name: str | None
) -> list[ColumnElement[bool]]:
    """The filters that jobs and studies have in common. None leaves a filter out."""
    filters: list[ColumnElement[bool]] = []
    if state is not None:
        filters.append(model.state == state)
    if tag is not None:
        filters.append(model.tags.contains([tag]))
    if name is not None:
        filters.append(model.name == name)
    return filters
