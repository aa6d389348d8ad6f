"""A job as a form: its files become uploads, and their ids are put into the request."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO

from fastapi import UploadFile
from pydantic import BeforeValidator, ConfigDict, Json, JsonValue, WrapValidator
from starlette.datastructures import UploadFile as StarletteUploadFile

from api.http.context import Context, with_storage
from api.http.forms import parse_json_part
from api.http.problems import Problem, invalid_field
from api.uploads.limits import check_size
from api.uploads.stored_bytes import announce
from api.uploads.writing import UploadWriter
from jobs.errors import Conflict, NotFound, Stale
from jobs.ledger import requests, uploads
from jobs.storage import removals
from jobs.storage.faults import StorageFault
from lit_spec import JobRequest
from lit_spec.documented import Documented
from lit_spec.requests.dataset import DATASET_SOURCES
from lit_spec.states import UploadKind, UploadState

PIECE_BYTES = 8 << 20
FORM_FILES = {
    "teacher": UploadKind.TEACHER,
    "discriminator": UploadKind.TEACHER,
    "dataset": UploadKind.DATASET,
}


def _check_file(part: Any) -> Any:
    if not isinstance(part, StarletteUploadFile):
        raise ValueError(
            "is not a file: send a file (with curl: -F name=@file), or put the upload's id into the part job"
        )
    if not part.size:
        raise ValueError("is an empty file: send a file with content")
    return part


FilePart = Annotated[UploadFile, BeforeValidator(_check_file)]
# The service reads JSON in one way, so pydantic's Json only describes the part.
JsonPart = Annotated[Json[dict[str, JsonValue]], WrapValidator(lambda part, _parse: parse_json_part(part))]


class JobForm(Documented):
    """A job and its files in one request."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "teacher": "@teacher.safetensors",
                    "job": '{"dataset": {"builtin": "digits"}, "student": {"depth": 14}}',
                }
            ]
        },
    )

    teacher: FilePart | None = None
    """A file of safetensors or of torch.save."""
    discriminator: FilePart | None = None
    """The same, for generators."""
    dataset: FilePart | None = None
    """The data set, as a file. Then the job has no `dataset.upload`."""
    job: JsonPart
    """The request as JSON, without the ids of the files that are in the form."""

    def files(self) -> dict[str, UploadFile]:
        """The files that were sent, by part."""
        return {name: file for name in FORM_FILES if (file := getattr(self, name)) is not None}

    def hashes(self) -> dict[str, str]:
        """The sha256 of each file that was sent, by part. Reads them to the end."""
        return {name: _sha256_of(file.file) for name, file in self.files().items()}


@dataclass
class FormUploads:
    """The uploads of the files in one form."""

    context: Context
    owner: str
    _new: set[str] = field(default_factory=set)
    """Those that this request made. Nobody else knows them."""

    async def store(self, form: JobForm, hashes: dict[str, str]) -> JobRequest:
        """Make uploads of the form's files; returns the request with their ids. A wrong request leaves nothing behind.

        Raises Problem and RequestRefused.
        """
        files = form.files()
        for name, file in files.items():
            check_size(file.size or 0, self.context, name)
        request = requests.parse(JobRequest, _with_uploads(form.job, dict.fromkeys(files, "upl_")))
        ids = {
            name: await with_storage(self.context, self._upload, file, name, hashes[name], request)
            for name, file in files.items()
        }
        # FastAPI would keep the temporary files until the answer, which may wait for an inspection.
        for file in files.values():
            await file.close()
        return requests.parse(JobRequest, _with_uploads(form.job, ids))

    def delete_unused(self, request: JobRequest) -> None:
        """Delete the uploads that were made for nothing, because the same form made the job with `request` earlier."""
        for upload_id in self._new.difference(requests.upload_ids(request)):
            # Another form of the owner may have found it.
            with suppress(Conflict, NotFound):
                self._delete(upload_id)

    def _upload(self, file: UploadFile, part: str, sha256: str, request: JobRequest) -> str:
        """Make an upload of a form's file, or find one with the same content. Returns its id."""
        filename = (file.filename or part).replace("\0", "")[:255]
        named = (request.architecture, request.teacher_weights) if part == "teacher" else ()
        upload, new = announce(self.context, self.owner, FORM_FILES[part], filename, file.size or 0, sha256, *named)
        if upload.state == UploadState.COMPLETE:
            return upload.id
        try:
            self._send(file.file, upload.id)
        except (Problem, StorageFault):
            # The caller doesn't know the upload's id, so nobody could complete it later.
            if new:
                self._delete(upload.id)
            raise
        except Stale:
            # Another request found it too, when its bytes were lost, and sends them: it's no longer found.
            return self._upload(file, part, sha256, request)
        if new:
            self._new.add(upload.id)
        return upload.id

    def _send(self, file: BinaryIO, upload_id: str) -> None:
        writer = UploadWriter(self.context, self.owner, upload_id, 0)
        file.seek(0)
        offset = 0
        while piece := file.read(PIECE_BYTES):
            writer.hash(offset, piece)
            writer.append(offset, piece)
            offset += len(piece)
        writer.complete()

    def _delete(self, upload_id: str) -> None:
        with self.context.database.session() as session:
            prefix = uploads.delete(session, self.owner, upload_id)
            removals.record(session, prefix, removals.SETTLING_SECONDS)
        removals.remove_now(self.context.storage, [prefix])


def _with_uploads(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The request with the ids of the form's files in their places."""
    result = dict(body)
    for name in ("teacher", "discriminator"):
        if name in ids:
            if name in body:
                raise invalid_field(name, "is given as a file and as an id: give one of them")
            result[name] = ids[name]
    if "dataset" in ids:
        dataset = body.get("dataset", {})
        if not isinstance(dataset, dict) or set(DATASET_SOURCES) & set(dataset):
            raise invalid_field("dataset", "is given as a file: in the job's dataset, leave out the other source")
        result["dataset"] = {**dataset, "upload": ids["dataset"]}
    return result


def _sha256_of(file: BinaryIO) -> str:
    file.seek(0)
    found = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        found.update(piece)
    return found.hexdigest()
