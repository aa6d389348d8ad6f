"""Sends large files straight to the service's object store, where the service offers that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from lit_client.addresses import path_to
from lit_client.answers import parse
from lit_client.asynchronous.connection import LONGEST_RETRY_AFTER, AsyncConnection, outside_client
from lit_client.errors import ProblemError, TransferError
from lit_client.models import Upload, UploadPart, UploadParts

FROM_BYTES = 32 << 20
"""Smaller files go through the service."""
PART_SECONDS = 600.0
# The service reads and copies the whole file before it answers.
COMPLETION_SECONDS = 1800.0
NOT_OFFERED = frozenset({404, 405, 409})
"""Answers of a service that keeps uploads in a folder, that is older, or that already has bytes of this upload."""


class _Unreachable(Exception):
    """The store can't be reached from here, or refuses the part."""


async def send_directly(
    connection: AsyncConnection, path: Path, upload: Upload, report: Callable[[int, int], None]
) -> bool:
    """Send a whole file past the service. False: the service must take the bytes itself.

    Parts that an earlier call has sent are not sent again. Raises TransferError and ProblemError.
    """
    if upload.size < FROM_BYTES or upload.received > 0:
        return False
    async with outside_client(PART_SECONDS) as store:
        for round in range(connection.retries + 1):
            if (parts := await _ask_parts(connection, upload)) is None:
                return False
            try:
                etags = await _send_parts(connection, store, path, parts, report)
            except _Unreachable as failure:
                if all(part.etag is None for part in parts) and isinstance(failure.__cause__, httpx.TransportError):
                    return False
                if round == connection.retries:
                    raise TransferError(
                        f"Sending {path} past the service failed: {failure}. Send it again."
                    ) from failure
                continue
            if await _complete(connection, upload, etags):
                return True
    return False


async def _ask_parts(connection: AsyncConnection, upload: Upload) -> list[UploadPart] | None:
    try:
        response = await connection.request("POST", path_to("uploads", upload.id, "parts"), repeatable=True)
    except ProblemError as problem:
        if problem.status in NOT_OFFERED:
            return None
        raise
    return parse(UploadParts, response).parts


async def _send_parts(
    connection: AsyncConnection,
    store: httpx.AsyncClient,
    path: Path,
    parts: list[UploadPart],
    report: Callable[[int, int], None],
) -> dict[int, str]:
    """The ETags of all parts."""
    size = sum(part.size for part in parts)
    etags = {part.number: part.etag for part in parts if part.etag is not None}
    done = sum(part.size for part in parts if part.etag is not None)
    report(done, size)
    with path.open("rb") as file:
        for part in parts:
            if part.number in etags:
                continue
            file.seek(part.offset)
            content = file.read(part.size)
            if len(content) != part.size:
                raise TransferError(f"{path} became shorter while it was being sent. Send it again.")
            etags[part.number] = await _put(connection, store, part.url, content)
            done += part.size
            report(done, size)
    return etags


async def _put(connection: AsyncConnection, store: httpx.AsyncClient, url: str, content: bytes) -> str:
    failure: Exception | None = None
    for attempt in range(connection.retries + 1):
        if attempt:
            await asyncio.sleep(connection.pause(attempt - 1))
        try:
            response = await store.put(url, content=content)
        except httpx.TransportError as error:
            failure = error
            continue
        if response.is_success and "ETag" in response.headers:
            return response.headers["ETag"].strip('"')
        failure = None
        if response.status_code < 500:
            # The URL has expired, for example. There are new ones to ask for.
            break
    raise _Unreachable(str(failure or f"it answered {response.status_code}")) from failure


async def _complete(connection: AsyncConnection, upload: Upload, etags: dict[int, str]) -> bool:
    """False if parts are missing after all."""
    body = {"parts": [{"number": number, "etag": etag} for number, etag in sorted(etags.items())]}
    path = path_to("uploads", upload.id, "complete")
    deadline = time.monotonic() + COMPLETION_SECONDS
    while True:
        try:
            await connection.request("POST", path, repeatable=True, wait=COMPLETION_SECONDS, json=body)
        except ProblemError as problem:
            if problem.type == "upload-parts-missing":
                return False
            # An earlier call, whose answer was lost, is still at work.
            if problem.type != "upload-completing" or time.monotonic() > deadline:
                raise
            await asyncio.sleep(min(problem.retry_after or connection.pause(0), LONGEST_RETRY_AFTER))
        else:
            return True
