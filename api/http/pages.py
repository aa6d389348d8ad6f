"""Lists in pages: opaque cursors that stay valid while rows are added and deleted."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Query, Request
from pydantic import AwareDatetime, StringConstraints, TypeAdapter

from api.http.auth import Owner
from api.http.numbers import WholeNumber
from api.http.problems import invalid_field
from jobs.database.models import ApiKey, AuditEntry, Study, Upload, Webhook, WebhookDelivery
from jobs.ledger.owned_rows import PageCursor
from lit_spec.answers.pages import ItemT, Page

RowT = TypeVar("RowT", Study, Upload, ApiKey, AuditEntry, Webhook, WebhookDelivery)
PositionT = TypeVar("PositionT", bound=tuple[Any, ...])

_ROW: TypeAdapter[tuple[datetime, str]] = TypeAdapter(
    tuple[AwareDatetime, Annotated[str, StringConstraints(pattern=r"^[a-z]+_[a-z2-7]+$")]]
)


class _InList(Protocol):
    """What tells an item's place in a list."""

    @property
    def created_at(self) -> datetime: ...

    @property
    def id(self) -> str: ...


@dataclass(frozen=True)
class PageRequest:
    """Which page of a list is asked for.

    A cursor belongs to the list that it was made for, with its owner and its filters.
    """

    list_id: str
    limit: int
    cursor: str | None

    def read_cursor(self, position: TypeAdapter[PositionT]) -> PositionT | None:
        """Where the page before ended; None for the first page. Raises Problem 422 for a cursor of another list."""
        if self.cursor is None:
            return None
        try:
            list_id, found = json.loads(base64.urlsafe_b64decode(self.cursor.encode()))
            if list_id == self.list_id:
                return position.validate_json(json.dumps(found), strict=True)
        except (ValueError, TypeError, RecursionError):
            pass
        raise invalid_field(
            "cursor", "is not a cursor of this list: take it from next_cursor, and keep the other parameters"
        )

    def make_cursor(self, last: PositionT, position: TypeAdapter[PositionT]) -> str:
        """The cursor of the page that follows the item at the position `last`."""
        cursor = json.dumps([self.list_id, position.dump_python(last, mode="json")])
        return base64.urlsafe_b64encode(cursor.encode()).decode()

    def after(self) -> PageCursor | None:
        """The same as `read_cursor`, for a list of rows."""
        found = self.read_cursor(_ROW)
        return None if found is None else PageCursor(*found)

    def make_page(self, rows: Sequence[RowT], show: Callable[[RowT], ItemT]) -> Page[ItemT]:
        """A page of `limit` items from `limit + 1` rows: the last row only says that there are more."""
        return Page(items=[show(row) for row in rows[: self.limit]], next_cursor=self.next_cursor(rows))

    def next_cursor(self, rows: Sequence[_InList]) -> str | None:
        """The cursor of the page that follows the first `limit` rows; None if there are no more."""
        if len(rows) <= self.limit:
            return None
        last = rows[self.limit - 1]
        return self.make_cursor((last.created_at, last.id), _ROW)


async def _page_request(
    request: Request,
    owner: Owner,
    limit: Annotated[WholeNumber, Query(ge=1, le=100, description="Items on a page.")] = 50,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before; the other parameters must be the same.")
    ] = None,
) -> PageRequest:
    filters = {name: value for name, value in request.query_params.items() if name not in {"limit", "cursor"}}
    which = json.dumps([request.url.path, owner, filters], sort_keys=True)
    return PageRequest(hashlib.sha256(which.encode()).hexdigest()[:16], limit, cursor)


InPages = Annotated[PageRequest, Depends(_page_request)]
