"""Files going out: ranges (RFC 9110 §14), validators, digest (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from api.problems import Problem

CHUNK_BYTES = 1 << 20


def send_bytes(
    request: Request,
    *,
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
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename)}",
        "X-Content-Type-Options": "nosniff",
    }
    known = request.headers.get("If-None-Match")
    if known is not None and (known.strip() == "*" or etag in {tag.strip() for tag in known.split(",")}):
        return Response(status_code=304, headers=headers)
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
    return StreamingResponse(stream(file, end - start), status, headers, media_type)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, end), the end excluded; None for what is to be ignored. Raises Problem 416 when nothing is there."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip().replace(" ", ""), re.IGNORECASE)
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start = int(match[1])
        end = min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= size or start >= end:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, "range-not-satisfiable", f"the file has {size} bytes", headers=headers)
    return start, end


def stream(file: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    """The next `length` bytes of a file, or all that follow; closes it."""
    left = length
    with file:
        while left is None or left > 0:
            chunk = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk
