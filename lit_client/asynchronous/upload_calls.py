"""Calls about uploads and the libraries' networks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lit_client.addresses import path_to
from lit_client.answers import parse
from lit_client.asynchronous.calls import AsyncCalls, long_polls
from lit_client.asynchronous.uploads import name_architecture, name_weights, send_file
from lit_client.errors import InspectedOtherwise, InspectionFailed
from lit_client.files import ProgressCallback
from lit_client.folders import as_file
from lit_client.models import ArchitectureItem, LibraryArchitecture, Page, Upload, UploadKind
from lit_spec import LibraryRequest, TeacherWeights


class AsyncUploadCalls(AsyncCalls):
    """Uploads, and the networks of torchvision and timm."""

    async def upload(
        self,
        path: str | Path,
        kind: UploadKind | str,
        progress: ProgressCallback | None = None,
        architecture: Mapping[str, Any] | None = None,
        teacher_weights: TeacherWeights | str | None = None,
    ) -> Upload:
        """Send a teacher or a data set. Continues an upload that an earlier call began, and never sends a file twice.

        A folder is packed first, if it is a data set; as a teacher it is a student that was downloaded.
        `architecture` says which network of torchvision or timm a teacher is, as in `inspect_as`, and
        `teacher_weights` which of its weights to take, as in `inspect_with`. Raises UnusableFolder, which is a
        ValueError.
        """
        with ExitStack() as stack:
            # Packing a folder takes a while.
            file = await asyncio.to_thread(stack.enter_context, as_file(Path(path), UploadKind(kind)))
            return await send_file(
                self._connection,
                file,
                UploadKind(kind),
                progress,
                architecture,
                None if teacher_weights is None else TeacherWeights(teacher_weights),
                chunk_bytes=self._chunk_bytes,
            )

    async def get_upload(self, upload_id: str, *, wait: float | None = None) -> Upload:
        """One upload; `wait` lets the service hold the answer until the inspection has finished, in seconds."""
        return parse(Upload, await self._get(path_to("uploads", upload_id), wait=wait))

    def uploads(self, *, limit: int | None = None) -> AsyncIterator[Upload]:
        """The owner's uploads."""
        return self._paged(Page[Upload], "/v1/uploads", {}, limit)

    async def delete_upload(self, upload_id: str) -> None:
        """Remove an upload. Raises ProblemError `upload-in-use` while a job needs it."""
        await self._connection.request("DELETE", path_to("uploads", upload_id), repeatable=True)

    def architectures(
        self, *, library: str | None = None, search: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ArchitectureItem]:
        """The networks of torchvision and timm, by library and name."""
        filters = {key: value for key, value in (("library", library), ("search", search)) if value is not None}
        return self._paged(Page[ArchitectureItem], "/v1/architectures", filters, limit)

    async def architecture(self, library: str, name: str) -> LibraryArchitecture:
        """A network's sections, and what each depth would save. Raises ProblemError `not-found`."""
        return parse(LibraryArchitecture, await self._get(path_to("architectures", library, name)))

    async def inspect_as(self, upload_id: str, architecture: Mapping[str, Any] | None) -> Upload:
        """Say which network of torchvision or timm a teacher is: {"library": …, "name": …, "kwargs": {…}}.

        The teacher is inspected again, as that network. None removes the architecture.
        """
        return await name_architecture(self._connection, upload_id, architecture)

    async def inspect_with(self, upload_id: str, teacher_weights: TeacherWeights | str | None) -> Upload:
        """Say which weights to take of a teacher's checkpoint that has raw and averaged ones: "raw" or "ema".

        The teacher is inspected again, with these. None: the raw ones, or the averaged ones where there are no others.
        """
        weights = None if teacher_weights is None else TeacherWeights(teacher_weights)
        return await name_weights(self._connection, upload_id, weights)

    async def wait_inspection(
        self,
        upload_id: str,
        *,
        architecture: Mapping[str, Any] | None = None,
        teacher_weights: TeacherWeights | str | None = None,
        timeout: float | None = None,
    ) -> Upload:
        """Wait until the service has inspected an upload; a teacher as `architecture`, with `teacher_weights`, if set.

        Raises InspectionFailed when the upload can't be used, InspectedOtherwise when another request has changed
        its architecture or weights, WaitTimeout after `timeout` seconds.
        """
        wanted = None if architecture is None else LibraryRequest.model_validate(architecture)
        async for wait in long_polls(timeout, f"The inspection of {upload_id}"):
            upload = await self.get_upload(upload_id, wait=wait)
            if wanted is not None and upload.architecture != wanted:
                raise InspectedOtherwise(upload.id, "architecture")
            if teacher_weights is not None and upload.teacher_weights != teacher_weights:
                raise InspectedOtherwise(upload.id, "teacher_weights")
            if upload.inspection_error is not None:
                raise InspectionFailed(upload, upload.inspection_error)
            if not upload.inspecting:
                return upload
        raise AssertionError("long polls end with an exception")
