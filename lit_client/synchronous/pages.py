"""Lists of the service, fetched page by page as they are read."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lit_client.answers import parse
from lit_client.synchronous.connection import Connection
from lit_spec.answers.pages import ItemT, Page

PAGE_ITEMS = 100


def paged(
    connection: Connection, model: type[Page[ItemT]], path: str, filters: Mapping[str, Any], limit: int | None
) -> Iterator[ItemT]:
    """The items, at most `limit`."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        params = {**filters, "limit": PAGE_ITEMS if left is None else min(PAGE_ITEMS, left)}
        params |= {"cursor": cursor} if cursor else {}
        page = parse(model, connection.request("GET", path, repeatable=True, params=params))
        yield from page.items
        left = None if left is None else left - len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return
