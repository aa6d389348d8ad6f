"""Files going out: ranges (RFC 9110 §14), validators, digest (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from api.http.conditional import Conditions
from api.http.context import Context, with_storage
from api.http.problems import Problem
from jobs.storage.media_types import attachment

CHUNK_BYTES = 2 << 20
DIGITS = 30


def send_bytes(
    request: Request,
    context: Context,
    *,
    conditions: Conditions,
    open_file: Callable[[], BinaryIO],
    size: int,
    sha256: str,
    media_type: str,
    filename: str,
) -> Response:
    """The file, or the one range of it that was asked for; several ranges are answered by the whole."""
    etag = f'"{sha256}"'
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": attachment(filename),
        "X-Content-Type-Options": "nosniff",
    }
    if (not_modified := conditions.not_modified(etag, headers)) is not None:
        return not_modified
    condition = request.headers.get("If-Range")
    wanted = request.headers.get("Range") if condition in (None, etag) else None
    found = parse_range(wanted, size) if wanted is not None else None
    status, start, end = (206, *found) if found else (200, 0, size)
    headers["Content-Length"] = str(end - start)
    if found:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    file = open_file()
    file.seek(start)
    return StreamingResponse(stream(context, file, end - start), status, headers, media_type)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, end), the end excluded; None for what is to be ignored. Raises Problem 416 when nothing is there."""
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.strip().replace(" ", ""), re.IGNORECASE)
    if match is None or not (match[1] or match[2]):
        return None
    first, last = _number(match[1]), _number(match[2])
    if first is None:
        start, end = max(0, size - (last or 0)), size
    else:
        start, end = first, size if last is None else min(last + 1, size)
        if last is not None and last < first:
            return None
    if start >= size or start >= end:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Problem(
            416,
            "range-not-satisfiable",
            f"the range begins after the end of the file: the file has {size} bytes",
            headers=headers,
        )
    return start, end


def _number(digits: str) -> int | None:
    """None for no digits. A number too long for Python's `int` is beyond the end of any file."""
    return int(digits.lstrip("0")[:DIGITS] or 0) if digits else None


async def stream(context: Context, file: BinaryIO, length: int | None = None) -> AsyncIterator[bytes]:
    """The next `length` bytes of a file, or all that follow; closes it."""
    left = length
    with file:
        while left is None or left > 0:
            chunk = await with_storage(context, file.read, CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk
