"""Writing the bytes of uploads to storage, and checking them once they are complete."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from api.http.context import Context, with_storage
from api.http.problems import Problem
from api.uploads.stored_bytes import bytes_lost, recover
from api.uploads.teacher_files import find_fault
from jobs.database.connection import allow_idle
from jobs.database.models import Upload
from jobs.ledger import audit, quotas, uploads
from jobs.storage import layout
from jobs.storage.storage import FinishedPieces, StorageKeyMissing
from lit_spec.states import UploadKind

RECORD_BYTES, RECORD_SECONDS = 64 << 20, 5.0
"""The number of received bytes is recorded after so many more or so much time, while the next ones arrive. After a
crash at most twice as much must be sent again. More often, a fast sender would wait for the disk."""

WRITE_SECONDS = 600.0
"""How long storage may take for one piece. A write that ends later than its transaction could cut off newer bytes."""


COMPLETION_SECONDS = 3600.0
"""For longer than this no completion of an upload keeps the next one away."""

COMPLETING_SECONDS = 5
"""After so long a caller may ask again whether the upload is complete."""


class UploadWriter:
    """One request's right to write to an upload. It ends when a newer request begins, in this process or in another.

    An older request can't overwrite the bytes of a newer one: every write happens under the lock of the upload's row,
    or storage itself tells the two apart. All methods block; they raise Stale, NotFound, and
    Problem 409 `upload-bytes-lost` if the earlier bytes are no longer in storage.
    """

    def __init__(
        self,
        context: Context,
        owner: str,
        upload_id: str,
        offset: int,
        check: Callable[[Upload], None] | None = None,
        *,
        has_all: bool = False,
    ) -> None:
        """`check` may refuse to write to the upload, by raising: then an earlier request goes on.

        `has_all`: all bytes are in storage, whatever the ledger says. Raises Problem 409 `upload-completing` if all are
        there and another request puts them together, and QuotaExceeded if the owner has more stored than is allowed.
        """
        with context.database.session() as session:
            before = uploads.get(session, owner, upload_id)
        recovered = recover(context, before)
        if recovered.received < min(offset, before.received):
            raise bytes_lost(recovered)
        with context.database.session() as session:
            # It was counted when it was announced. Files of jobs, or a smaller quota, may have come after that.
            quotas.require_room_for_bytes(session, owner, 0, context.settings.quotas)
            self.upload = uploads.open_writer(session, owner, upload_id, offset)
            if check is not None:
                check(self.upload)
            if (has_all or offset == self.upload.size) and uploads.is_completing(session, upload_id):
                raise _completing()
        self.piece_bytes = context.storage.piece_bytes
        self._hash = None if offset else hashlib.sha256()
        """Of what this request has written, if it began with the first byte."""
        self._hashed = 0
        self._context = context
        self._key = layout.upload_data(upload_id)

    def append(self, offset: int, piece: bytes) -> None:
        """Write the next piece to storage. `hash` the same pieces in the same order, before, after or meanwhile."""
        storage = self._context.storage
        with self._transaction(only_locks=True) as session:
            uploads.hold(session, self.upload.id, self.upload.writer)
            if not storage.fences_pieces:
                storage.write_piece(self._key, offset, piece, self.upload.writer)
        if storage.fences_pieces:
            # A store may take minutes. Meanwhile this request keeps neither the row nor a connection.
            storage.write_piece(self._key, offset, piece, self.upload.writer)

    def hash(self, offset: int, piece: bytes) -> None:
        """Then a file that this request writes alone need not be read again."""
        if self._hash is not None and offset == self._hashed:
            self._hash.update(piece)
            self._hashed += len(piece)

    def record(self, received: int) -> None:
        """Make the bytes in storage durable, and record in the ledger that `received` of them are."""
        # Before the transaction: it may take long, and others wait for the row.
        try:
            self._context.storage.sync(self._key)
        except StorageKeyMissing:
            with self._transaction() as session:
                # Whether the upload was deleted with its bytes.
                uploads.hold(session, self.upload.id, self.upload.writer)
                raise
        with self._transaction() as session:
            uploads.record_progress(session, self.upload.id, self.upload.writer, received)

    def cut(self, offset: int) -> None:
        """Remove the bytes from `offset` on."""
        with self._transaction() as session:
            uploads.record_progress(session, self.upload.id, self.upload.writer, offset)
            self._context.storage.cut(self._key, offset)

    def complete(self) -> None:
        """Check the bytes in storage and mark the upload complete. Reads all of them that this request did not write.

        Raises Problem 422 `checksum-mismatch` or `bad-upload`; the upload then starts again at offset 0.
        """
        storage, size = self._context.storage, self.upload.size
        with self._told_if_lost(), self._alone(), storage.finish(self._key, size, self._sha256) as finished:
            if (problem := self._find_problem(finished)) is None:
                with self._transaction() as session:
                    uploads.complete(session, self.upload.id, self.upload.writer, finished.sha256)
                    audit.record(session, "upload.complete", self.upload.id)
                    # Under the lock, so that no bytes of an older request appear later.
                    finished.publish()
        if problem is not None:
            self.cut(0)
            raise problem

    @property
    def _sha256(self) -> str | None:
        """None unless this request has written the whole file."""
        return None if self._hash is None or self._hashed != self.upload.size else self._hash.hexdigest()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Until then no other request reads and writes the whole file, to find at the end that it is not the newest."""
        with self._context.database.session() as session:
            allow_idle(session, COMPLETION_SECONDS)
            uploads.hold_completion(session, self.upload.id)
            yield

    @contextmanager
    def _transaction(self, *, only_locks: bool = False) -> Iterator[Session]:
        with self._told_if_lost(), self._context.database.session() as session:
            allow_idle(session, WRITE_SECONDS, only_locks=only_locks)
            yield session

    @contextmanager
    def _told_if_lost(self) -> Iterator[None]:
        try:
            yield
        except StorageKeyMissing as missing:
            raise bytes_lost(recover(self._context, self.upload)) from missing

    def _find_problem(self, finished: FinishedPieces) -> Problem | None:
        announced, sha256 = self.upload.sha256, finished.sha256
        if announced is not None and sha256 != announced:
            detail = f"the bytes have the sha256 {sha256}, but {announced} was announced: send the file again"
            return Problem(422, "checksum-mismatch", detail)
        if self.upload.kind != UploadKind.TEACHER:
            return None
        with finished.open() as file:
            fault = find_fault(file, self.upload.size)
        return None if fault is None else Problem(422, "bad-upload", f"{self.upload.filename}: {fault}")


def _completing() -> Problem:
    detail = "another request is putting this upload together: ask again, until the upload is complete"
    return Problem(409, "upload-completing", detail, headers={"Retry-After": str(COMPLETING_SECONDS)})


class Written:
    """The pieces of one request on their way to storage: one is written and hashed while the next one arrives, and what
    is written is made durable meanwhile.
    """

    def __init__(self, context: Context, writer: UploadWriter) -> None:
        self._context = context
        self._writer = writer
        self._offset = self._recorded = self._to_record = writer.upload.received
        self._record_at = time.monotonic() + RECORD_SECONDS
        self._writing: asyncio.Task[None] | None = None
        self._recording: asyncio.Task[None] | None = None

    async def begin(self, piece: bytes) -> None:
        """Write the next piece, once the one before is written. Raises what its write has raised."""
        await self._wait()
        self._writing = asyncio.create_task(self._write(piece))

    async def cut(self, offset: int) -> None:
        """Take back what is beyond `offset`."""
        await self._wait()
        await self._wait_for_record()
        await with_storage(self._context, self._writer.cut, offset)
        self._offset = self._recorded = self._to_record = offset

    async def end(self) -> None:
        """Wait for the last piece, and record what is stored, also when a write has failed. Raises what it raised."""
        try:
            await self._wait()
        finally:
            try:
                await self._wait_for_record()
            finally:
                if self._offset > self._recorded:
                    await self._record(self._offset)

    async def _write(self, piece: bytes) -> None:
        offset = self._offset
        hashing = asyncio.create_task(with_storage(self._context, self._writer.hash, offset, piece))
        try:
            await with_storage(self._context, self._writer.append, offset, piece)
        finally:
            await hashing
        self._offset += len(piece)
        if self._offset - self._to_record >= RECORD_BYTES or time.monotonic() >= self._record_at:
            await self._wait_for_record()
            self._to_record, self._record_at = self._offset, time.monotonic() + RECORD_SECONDS
            self._recording = asyncio.create_task(self._record(self._offset))

    async def _record(self, received: int) -> None:
        await with_storage(self._context, self._writer.record, received)
        self._recorded = received

    async def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _wait_for_record(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            await recording


async def pieces(stream: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The stream's bytes in pieces of at least `size` bytes, so that each is worth a trip to storage.

    When the stream breaks, the bytes before the break are yielded first; then the error is raised.
    """
    gathered: list[bytes] = []
    length = 0
    broken: Exception | None = None
    try:
        async for chunk in stream:
            gathered.append(chunk)
            length += len(chunk)
            if length >= size:
                yield b"".join(gathered)
                gathered, length = [], 0
    except Exception as error:  # noqa: BLE001 - raised again below
        broken = error
    if length:
        yield b"".join(gathered)
    if broken is not None:
        raise broken
