"""Uploads and downloads of `litc compress`, `litc study` and `litc inspect`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_client.command import display
from lit_client.command.job_request import BadRequest, Body
from lit_client.compressed import UPLOAD_PREFIX, is_store_url
from lit_client.files import DownloadedFile
from lit_client.folders import UnusableFolder, as_file, check_folder
from lit_client.models import Upload
from lit_client.synchronous.client import Client
from lit_spec import BUILTIN
from lit_spec.requests.dataset import DATASET_SOURCES
from lit_spec.states import UploadKind

DATASET, TEST_DATASET = "--dataset", "--test-dataset"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a request. Each is a file, or the id of an upload."""

    teacher: str
    dataset: str | None
    """None if the request itself names its data set."""
    discriminator: str | None = None
    test_dataset: str | None = None

    def check(self, job: Body) -> None:
        """Check, before anything is sent, that the files exist and a data set is named. Raises BadRequest."""
        check_input("TEACHER", self.teacher)
        if self.discriminator is not None:
            check_input("--discriminator", self.discriminator)
        if self.test_dataset is not None:
            check_input(TEST_DATASET, self.test_dataset)
        if self.dataset is not None:
            check_input(DATASET, self.dataset)
        elif not set(DATASET_SOURCES) & set(job.get("dataset", {})):
            raise BadRequest("No data set is named: give --dataset FILE, or --dataset digits.")


def dataset_to_upload(dataset: str | None) -> str | None:
    """What `--dataset` names, unless the service has it already or reads it from an object store."""
    return None if dataset in (None, *BUILTIN) or is_store_url(dataset) else dataset


def check_input(option: str, value: str) -> None:
    """Check that `value` is a file or a folder, or looks like the id of an upload. Raises BadRequest."""
    path = Path(value)
    if value.startswith(UPLOAD_PREFIX) or path.is_file():
        return
    if not path.is_dir():
        raise BadRequest(f"{option} {value} is not a file: give a file, or the id of an upload ({UPLOAD_PREFIX}…).")
    try:
        check_folder(path, UploadKind.DATASET if option in (DATASET, TEST_DATASET) else UploadKind.TEACHER)
    except UnusableFolder as failure:
        raise BadRequest(f"{option}: {failure}.") from failure


def send(
    client: Client,
    source: str,
    kind: UploadKind,
    architecture: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> Upload:
    """Upload a file or a folder, or get the upload with this id."""
    path = Path(source)
    if path.is_dir():
        with ExitStack() as stack:
            with display.transfer_bar(f"packing {path.name}") as packing:
                file = stack.enter_context(as_file(path, kind, packing))
            return _send_file(client, file, kind, architecture, weights)
    if path.is_file():
        return _send_file(client, path, kind, architecture, weights)
    if architecture is not None:
        client.inspect_as(source, architecture)
    if weights is not None:
        client.inspect_with(source, weights)
    return client.get_upload(source)


def _send_file(
    client: Client, path: Path, kind: UploadKind, architecture: Mapping[str, Any] | None, weights: str | None
) -> Upload:
    with display.transfer_bar(path.name) as progress:
        return client.upload(path, kind, progress, architecture, weights)


def send_teacher(client: Client, source: str, architecture: Mapping[str, Any] | None, weights: str | None) -> Upload:
    """Upload a file, or get the upload with this id, and wait until it is inspected as this architecture, with these
    weights."""
    sent = send(client, source, UploadKind.TEACHER, architecture, weights)
    return client.wait_inspection(sent.id, architecture=architecture, teacher_weights=weights)


def send_datasets(client: Client, inputs: Inputs, job: Body) -> Body:
    """Upload the data sets and return the job's request with them, in place of others."""
    dataset = dict(job.get("dataset", {}))
    if inputs.dataset is not None:
        dataset = {name: value for name, value in dataset.items() if name not in DATASET_SOURCES}
        dataset["upload"] = send_inspected_dataset(client, inputs.dataset).id
    if inputs.test_dataset is not None:
        dataset["test_upload"] = send_inspected_dataset(client, inputs.test_dataset).id
    return {**job, "dataset": dataset}


def send_inspected_dataset(client: Client, source: str) -> Upload:
    """Upload this data set, and wait until it is inspected."""
    return client.wait_inspection(send(client, source, UploadKind.DATASET).id)


def fetch(
    client: Client, job_id: str, folder: Path, names: Collection[str] | None = None, *, bundle: bool = False
) -> list[DownloadedFile]:
    """Download and verify a job's files, or those with these names, or the bundle in their place."""
    with display.transfer_bar("downloading") as progress:
        return client.download(job_id, folder, names, progress, bundle=bundle)
