"""Downloads a job's files. Downloads can be continued and are verified; a file gets its name when it is complete."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx

from lit_client.addresses import path_to
from lit_client.errors import ChecksumError, LitError, ProblemError, TransferError
from lit_client.files import DownloadedFile, ProgressCallback, file_sha256, is_complete, publish, safe_name
from lit_client.models import Artifact
from lit_client.synchronous.connection import Connection, outside_client

FROM_STORE_BYTES = 1 << 20
"""Smaller files come through the service, which saves a connection to the store."""


def fetch_file(
    connection: Connection, job_id: str, artifact: Artifact, folder: Path, progress: ProgressCallback
) -> DownloadedFile:
    """Download one artifact into `folder`, unless it is already there.

    Raises ChecksumError when the content is wrong twice, TransferError when the connection keeps breaking.
    """
    target = folder / safe_name(artifact.name)
    result = DownloadedFile(target, artifact.size, artifact.sha256)
    if is_complete(target, artifact):
        progress(artifact.size, artifact.size)
        return result
    # Its name depends on the content, so that a part of another job's file is never continued with this one's bytes.
    part = folder / f".{artifact.name}.{artifact.sha256[:16]}.part"
    resumed = part.exists()
    _Fetch(connection, job_id, artifact, part, progress).run()
    if resumed and not is_complete(part, artifact):
        # The part that an earlier run left may be damaged (a full disk, a crash), so download it again from the start.
        part.unlink()
        _Fetch(connection, job_id, artifact, part, progress).run()
    if not is_complete(part, artifact):
        found = file_sha256(part)
        part.unlink()
        raise ChecksumError(
            f"{artifact.name} of {job_id} arrived with sha256 {found}, but the service's manifest says "
            f"{artifact.sha256}. The download was removed: fetch it again."
        )
    publish(part, target)
    return result


class _Fetch:
    """Downloads one artifact into its part file, from the end of what the file already has.

    The service may name its object store for a large file. Where nothing comes from there, the service sends the file.
    """

    def __init__(
        self, connection: Connection, job_id: str, artifact: Artifact, part: Path, progress: ProgressCallback
    ) -> None:
        self.connection = connection
        self.path = path_to("jobs", job_id, "artifacts", artifact.name)
        self.artifact = artifact
        self.part = part
        self.progress = progress
        self.presigned = artifact.size >= FROM_STORE_BYTES
        self.etag: str | None = None
        """Of the store, or of the service."""

    def run(self) -> None:
        """Raises TransferError when the connection keeps breaking, ProblemError when the service refuses."""
        furthest = self._have()
        failures = 0
        while not self.part.exists() or self._have() < self.artifact.size:
            error = self._try_once()
            if self._have() > furthest:
                furthest, failures = self._have(), 0
                continue
            failures += 1
            if failures > self.connection.retries:
                raise TransferError(
                    f"Fetching {self.artifact.name} stopped at {furthest} of {self.artifact.size} bytes: "
                    f"{error or 'the service sends no more.'} Fetch it again to continue from there."
                ) from error
            time.sleep(self.connection.pause(failures))

    def _try_once(self) -> LitError | None:
        """Download until the end or an error. A temporary error is returned, because bytes may have come before it."""
        try:
            self._read_on(self._have())
        except httpx.TransportError as error:
            return self.connection.unreachable(error)
        except ProblemError as error:
            if not error.temporary:
                raise
            return error
        return None

    def _have(self) -> int:
        """The number of bytes in the part file. A part file that is too long is removed."""
        if not self.part.exists():
            return 0
        size = self.part.stat().st_size
        if size > self.artifact.size:
            self.part.unlink()
            return 0
        return size

    def _read_on(self, offset: int) -> None:
        with self.connection.stream(self.path, self._headers(offset), presigned=self.presigned) as response:
            if not (self.presigned and response.has_redirect_location):
                self._take(response, offset)
                return
            store_url = response.url.join(response.headers["Location"])
        if not self._read_from_store(store_url, offset):
            self.presigned, self.etag = False, None
            self._read_on(self._have())

    def _read_from_store(self, url: httpx.URL, offset: int) -> bool:
        """Without the key. False: nothing came."""
        try:
            with (
                outside_client(self.connection.timeout) as store,
                store.stream("GET", url, headers=self._headers(offset)) as response,
            ):
                if response.is_success:
                    self._take(response, offset)
        except httpx.TransportError:
            if self._have() > offset:
                raise
        return self._have() > offset

    def _take(self, response: httpx.Response, offset: int) -> None:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.part.unlink(missing_ok=True)
            return
        if not response.is_success:
            response.read()
            raise ProblemError.from_response(response)
        self.etag = response.headers.get("ETag")
        start = _range_start(response)
        if start > offset:
            raise TransferError(
                f"{self.artifact.name}: asked for bytes from {offset}, got them from {start}. Fetch it again."
            )
        self._write(response, start)

    def _headers(self, offset: int) -> dict[str, str]:
        # Without compression, because a compressed transfer can't be continued by offset.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.etag and not self.etag.startswith("W/"):
                headers["If-Range"] = self.etag
        return headers

    def _write(self, response: httpx.Response, start: int) -> None:
        with self.part.open("r+b" if self.part.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            done = start
            # In the pieces that arrive: with larger ones, the last bytes before a broken connection would be lost.
            for piece in response.iter_bytes():
                file.write(piece)
                done += len(piece)
                self.progress(min(done, self.artifact.size), self.artifact.size)
                if done > self.artifact.size:
                    raise TransferError(
                        f"{self.artifact.name}: the service sends more than the {self.artifact.size} bytes "
                        "that its manifest says. Fetch it again."
                    )


def _range_start(response: httpx.Response) -> int:
    """The offset of the body's first byte: from Content-Range, or 0 for a whole file."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None:
        raise TransferError(f"{response.request.url} answered 206 without saying which bytes (Content-Range).")
    return int(match[1])
