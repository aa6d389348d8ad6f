"""What was found in uploads, parsed once for all requests that name them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Text, cast, literal_column, select

from jobs.database.connection import Database
from jobs.database.models import Upload
from jobs.ledger.requests import Found, Inspections, NamedUpload, asks_otherwise, found_in, named_uploads
from lit_spec import JobRequest
from lit_spec.states import InspectionState, UploadState

KEPT_UPLOADS = 128
"""An inspection has 1 to 100 kB."""


@dataclass(frozen=True)
class InspectedUpload:
    """A complete upload whose inspection has succeeded."""

    row: Upload
    """Of no session: it is read by several threads, and changed by none."""
    stamp: str
    """The transaction that wrote the row. While it is the same, so is the row."""
    found: Found


@dataclass(frozen=True)
class KnownUploads:
    """The uploads that a request names, by field."""

    by_field: Mapping[str, InspectedUpload]
    fresh: bool
    """Whether all of them were read from the ledger for this request. Others may have changed since."""

    @property
    def inspections(self) -> Inspections:
        return Inspections.of({field: upload.found for field, upload in self.by_field.items()})

    @property
    def rows(self) -> list[Upload]:
        return [upload.row for upload in self.by_field.values()]

    @property
    def stamps(self) -> dict[str, str | None]:
        """By the uploads' ids."""
        return {upload.row.id: upload.stamp for upload in self.by_field.values()}


class InspectedUploads:
    """The uploads that this process has used lately. Its methods may be called by any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], InspectedUpload] = OrderedDict()

    def find(self, owner: str, request: JobRequest) -> KnownUploads | None:
        """The uploads that the request names; None unless all of them are there and inspected as the request asks.

        They may be older than the ledger: whoever writes what depends on them writes it only while their stamps are
        those of the ledger, and whoever refuses something because of them makes sure that they are fresh.
        """
        named = named_uploads(request)
        by_id = self._get(owner, {upload.id for upload in named.values()})
        missing = {upload.id for upload in named.values()} - set(by_id)
        if missing:
            by_id |= self._read(owner, missing)
        by_field = {field: by_id[upload.id] for field, upload in named.items() if upload.id in by_id}
        if not all(field in by_field and _fits(by_field[field], field, named[field], request) for field in named):
            return None
        return KnownUploads(by_field, fresh=len(missing) == len(by_id))

    def forget(self, known: KnownUploads) -> None:
        """They are not, or may not be, those of the ledger."""
        with self._lock:
            for row in known.rows:
                self._kept.pop((row.owner, row.id), None)

    def _get(self, owner: str, upload_ids: Collection[str]) -> dict[str, InspectedUpload]:
        found = {}
        with self._lock:
            for upload_id in upload_ids:
                if (upload := self._kept.get((owner, upload_id))) is not None:
                    self._kept.move_to_end((owner, upload_id))
                    found[upload_id] = upload
        return found

    def _read(self, owner: str, upload_ids: Collection[str]) -> dict[str, InspectedUpload]:
        stamp = cast(literal_column("uploads.xmin"), Text)
        query = select(Upload, stamp).where(Upload.owner == owner, Upload.id.in_(upload_ids))
        with self._database.reading() as session:
            rows = session.execute(query).all()
            session.expunge_all()
        inspected = {
            row.id: InspectedUpload(row, stamp, found_in(row))
            for row, stamp in rows
            if row.state == UploadState.COMPLETE and row.inspection_state == InspectionState.DONE
        }
        with self._lock:
            self._kept.update({(owner, upload_id): upload for upload_id, upload in inspected.items()})
            while len(self._kept) > KEPT_UPLOADS:
                self._kept.popitem(last=False)
        return inspected


def _fits(upload: InspectedUpload, field: str, named: NamedUpload, request: JobRequest) -> bool:
    """Whether the upload is of the right kind, and the teacher inspected as the request asks."""
    return upload.row.kind == named.kind and not (field == "teacher" and asks_otherwise(request, upload.row))
