"""Rows of one owner: one by its id, or a list in pages that stay valid while rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import Session

from jobs.database.models import ApiKey, AuditEntry, Job, JobTag, Study, StudyTag, Upload, Webhook, WebhookDelivery
from jobs.errors import NotFound

RowT = TypeVar("RowT", Job, Study, Upload, Webhook, WebhookDelivery)
NAMES: dict[type[Any], str] = {
    Job: "job",
    Study: "study",
    Upload: "upload",
    Webhook: "webhook",
    WebhookDelivery: "delivery",
}

LabelledT = TypeVar("LabelledT", Job, Study)
_TAGS: dict[type[Any], tuple[type[Any], Any]] = {Job: (JobTag, JobTag.job_id), Study: (StudyTag, StudyTag.study_id)}

QueryT = TypeVar("QueryT", bound=Select[*tuple[Any, ...]])
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


def labelled_page(
    query: QueryT,
    model: type[LabelledT],
    owner: str,
    *,
    state: str | None,
    tag: str | None,
    name: str | None,
    filters: Sequence[ColumnElement[bool]] = (),
    after: PageCursor | None = None,
    limit: int = 50,
) -> QueryT:
    """The query that reads a page like `read_page`, with the filters that jobs and studies have in common.

    `query` selects what is wanted of the model. None leaves a filter out.
    """
    filters = list(filters)
    if state is not None:
        filters.append(model.state == state)
    if name is not None:
        filters.append(model.name == name)
    if tag is None:
        return _page(query.where(model.owner == owner, *filters), model.created_at, model.id, after, limit)
    tags, tagged = _TAGS[model]
    of_tag = query.join(tags, tagged == model.id).where(tags.owner == owner, tags.tag == tag, *filters)
    return _page(of_tag, tags.created_at, tagged, after, limit)


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
    return list(session.scalars(_page(query, model.created_at, model.id, after, limit)))


def _page(query: QueryT, created_at: Any, id: Any, after: PageCursor | None, limit: int) -> QueryT:
    """Ordered by columns that an index has after those of the filter, so that every page costs the same."""
    if after is not None:
        query = query.where(tuple_(created_at, id) < tuple_(after.created_at, after.id))
    return query.order_by(created_at.desc(), id.desc()).limit(limit)
