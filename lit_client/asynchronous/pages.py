"""Lists of the service, fetched page by page as they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from lit_client.answers import parse
from lit_client.asynchronous.connection import AsyncConnection
from lit_spec.answers.pages import ItemT, Page

PAGE_ITEMS = 100


async def paged(
    connection: AsyncConnection, model: type[Page[ItemT]], path: str, filters: Mapping[str, Any], limit: int | None
) -> AsyncIterator[ItemT]:
    """The items, at most `limit`."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        params = {**filters, "limit": PAGE_ITEMS if left is None else min(PAGE_ITEMS, left)}
        params |= {"cursor": cursor} if cursor else {}
        page = parse(model, await connection.request("GET", path, repeatable=True, params=params))
        for item in page.items:
            yield item
        left = None if left is None else left - len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return
