"""Lists in pages: opaque cursors that stay valid while rows are added and deleted."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Query
from pydantic import AwareDatetime, StringConstraints, TypeAdapter

from api.http.problems import Problem, invalid_field
from jobs.database.models import Job, Study, Upload
from jobs.ledger.owned_rows import PageCursor
from lit_spec.answers.pages import ItemT, Page

RowT = TypeVar("RowT", Job, Study, Upload)

Limit = Annotated[int, Query(ge=1, le=100, description="Items on a page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


_CURSOR: TypeAdapter[tuple[datetime, str]] = TypeAdapter(
    tuple[AwareDatetime, Annotated[str, StringConstraints(pattern=r"^[a-z]+_[a-z2-7]+$")]]
)


def read_cursor(cursor: str | None) -> PageCursor | None:
    """Raises Problem 422 for a cursor that this service didn't make."""
    if cursor is None:
        return None
    try:
        return PageCursor(*_CURSOR.validate_json(base64.urlsafe_b64decode(cursor.encode()), strict=True))
    except ValueError as bad:
        raise wrong_cursor() from bad


def wrong_cursor() -> Problem:
    return invalid_field("cursor", "is not a cursor of this list: take it from next_cursor")


def make_page(rows: Sequence[RowT], limit: int, show: Callable[[RowT], ItemT]) -> Page[ItemT]:
    """A page of `limit` items from `limit + 1` rows: the last row only says that there are more."""
    items = [show(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return Page(items=items, next_cursor=None)
    last = rows[limit - 1]
    cursor = _CURSOR.dump_json((last.created_at, last.id))
    return Page(items=items, next_cursor=base64.urlsafe_b64encode(cursor).decode())
