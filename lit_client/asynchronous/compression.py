"""`compress`: from a model and data to the student, in one call."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lit_client.asynchronous.job_calls import AsyncJobCalls
from lit_client.asynchronous.upload_calls import AsyncUploadCalls
from lit_client.compressed import (
    PLACEHOLDER_ID,
    Compressed,
    InMemory,
    Source,
    architecture_object,
    bytes_report,
    check_request,
    dataset_fields,
    source_of,
)
from lit_client.errors import JobFailed
from lit_client.in_memory import load_student, write_data, write_teacher
from lit_client.models import UploadKind
from lit_client.progress import JobReport, ProgressReport, shown_progress
from lit_spec import TeacherWeights
from lit_spec.states import JobState

SECONDS_BETWEEN_REPORTS = 2.0


class AsyncCompression(AsyncUploadCalls, AsyncJobCalls):
    """A whole compression in one call."""

    async def compress(
        self,
        model: Any,
        data: Any,
        *,
        depth: int | None = None,
        blocks: Sequence[int] | None = None,
        ratio: float | None = None,
        kept: Sequence[Sequence[int]] | None = None,
        target: Mapping[str, float] | None = None,
        folder: str | Path | None = None,
        architecture: str | Mapping[str, Any] | None = None,
        teacher_weights: TeacherWeights | str | None = None,
        test_data: Any = None,
        on_progress: ProgressReport | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Compressed:
        """Upload a model and data, run a job, wait for it, download the student and load it.

        `model`: a torch module, a file, a downloaded student's folder, or an upload's id. The service must know the
        network: a module of its own families or of torchvision or timm is recognised; `architecture` names others, as
        "torchvision/resnet50" or as in `inspect_as`. `data`: a file, a folder, an upload's id, the word "digits", a
        mapping of the request's `dataset` fields as {"mounted": "cifar10"}; or in memory as arrays or tensors x or
        (x, y), {"x": …, "y": …, "split": …}, {"train": (x, y), "test": (x, y)}, a torch data set or batches.
        `test_data`: the same, all of it the test split. Give one of `depth`, `blocks`, `ratio`, `kept` and `target`;
        `fields` are the other fields of a job's request (docs/jobs.md): alpha=0.5, schedule={…}, student={"select": …}.

        The files go to `folder`; None: a new folder among the system's temporary ones. `on_progress` is called with
        what is being done and its fraction (0 to 1, or None); None: a bar on a terminal and in a notebook. What is in
        memory, and loading the student, need torch: the extra `core`.

        Raises ValueError for a wrong request or data, JobFailed, InspectionFailed, MissingCore, and other LitErrors.
        A student that is not accepted is returned: look at `job.accepted`.
        """
        student = {"depth": depth, "blocks": blocks, "ratio": ratio, "kept": kept, "target": target}
        chosen = {name: value for name, value in student.items() if value is not None}
        body: dict[str, Any] = {**fields, "student": {**fields.get("student", {}), **chosen}}
        named = architecture_object(architecture)
        weights = None if teacher_weights is None else TeacherWeights(teacher_weights)
        model_source, test_source = source_of(model), None if test_data is None else source_of(test_data)
        dataset, data_source = dataset_fields(body.pop("dataset", {}), data)
        if test_source is not None:
            dataset["test_upload"] = PLACEHOLDER_ID
        check_request({**body, "teacher": PLACEHOLDER_ID, "dataset": dataset})
        with ExitStack() as stack:
            report = on_progress or stack.enter_context(shown_progress())
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lit-")))
            body["teacher"] = await self._send_model(model_source, temporary, named, weights, report)
            if data_source is not None:
                dataset["upload"] = await self._send_data(data_source, temporary / "data.npz", report)
            if test_source is not None:
                dataset["test_upload"] = await self._send_data(test_source, temporary / "test.npz", report)
            told = {"architecture": named, "teacher_weights": weights}
            body |= {name: value for name, value in told.items() if value is not None}
            job = await self.create_job({**body, "dataset": dataset}, idempotency_key=idempotency_key)
            told_of = JobReport(report)
            async for event in self.follow(job.id, on_job=told_of.job, every=SECONDS_BETWEEN_REPORTS):
                told_of.event(event)
            job = await self.job(job.id)
            if job.state != JobState.SUCCEEDED:
                raise JobFailed(job)
            place = Path(tempfile.mkdtemp(prefix=f"{job.id}-") if folder is None else folder)
            progress = bytes_report("downloading", report)
            files = await self.download(job.id, place, progress=progress)
        return Compressed(job, place, files, await asyncio.to_thread(load_student, place))

    async def _send_model(
        self,
        source: Source,
        temporary: Path,
        architecture: Mapping[str, Any] | None,
        weights: TeacherWeights | None,
        report: ProgressReport,
    ) -> str:
        """Its upload's id, once it is inspected."""
        if isinstance(source, str):
            if architecture is not None:
                await self.inspect_as(source, architecture)
            if weights is not None:
                await self.inspect_with(source, weights)
            upload_id = source
        else:
            if isinstance(source, InMemory):
                report("writing the model", None)
                path = temporary / "teacher.safetensors"
                architecture = await asyncio.to_thread(write_teacher, source.value, path, architecture)
            else:
                path = source
            progress = bytes_report(f"uploading {path.name}", report)
            upload_id = (await self.upload(path, UploadKind.TEACHER, progress, architecture, weights)).id
        report("inspecting the model", None)
        return (await self.wait_inspection(upload_id, architecture=architecture, teacher_weights=weights)).id

    async def _send_data(self, source: Source, file: Path, report: ProgressReport) -> str:
        """Its upload's id, once it is inspected. `file`: where to write what is in memory."""
        if isinstance(source, str):
            upload_id = source
        else:
            if isinstance(source, InMemory):
                report("writing the data", None)
                await asyncio.to_thread(write_data, source.value, file)
            path = file if isinstance(source, InMemory) else source
            progress = bytes_report(f"uploading {path.name}", report)
            upload_id = (await self.upload(path, UploadKind.DATASET, progress)).id
        report("inspecting the data", None)
        return (await self.wait_inspection(upload_id)).id
