"""Fills the job folder, which the trainer reads. It is on the worker's disk and is removed after the attempt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from jobs import disks
from jobs.ledger.attempts import Claim
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.storage import Storage, StorageKeyMissing
from lit_spec import ErrorType, JobError
from lit_spec.trainer.folder import (
    CHECKPOINT_FILE,
    DATASET_FILE,
    DISCRIMINATOR_FILE,
    RUN_FILE,
    SPEC_FILE,
    TEACHER_FILE,
    TEST_DATASET_FILE,
)
from lit_spec.trainer.run import DatasetOrigin, TrainerMachine, TrainerRun
from worker.host.fetching import fetch

STORE_FOLDER = "decoded"


def trainer_machine(settings: Settings) -> TrainerMachine:
    """The part of run.json that is the same for all trainers of this worker."""
    return TrainerMachine(
        threads=settings.threads,
        datasets=settings.datasets_dir and settings.datasets_dir.resolve(),
        datasets_download=settings.datasets_download,
        teacher_cache=settings.teacher_cache if settings.teacher_cache_bytes else None,
        teacher_cache_bytes=settings.teacher_cache_bytes,
        teacher_cache_job_bytes=settings.teacher_cache_job_bytes,
        feature_network=settings.feature_network and settings.feature_network.resolve(),
        data_store=data_store(settings) if store_bytes(settings) else None,
        data_store_bytes=store_bytes(settings),
        data_store_days=settings.data_store_days,
        disk_reserve_bytes=reserve_bytes(settings),
    )


def data_store(settings: Settings) -> Path:
    """The folder of decoded data sets, which all workers of a machine share."""
    return (settings.data_dir / STORE_FOLDER).resolve()


def store_bytes(settings: Settings) -> int:
    """What decoded data sets may take on this machine's disk."""
    if settings.data_store_bytes is not None:
        return settings.data_store_bytes
    return shutil.disk_usage(_data_dir(settings)).total // 2


def reserve_bytes(settings: Settings) -> int:
    """What decoded data sets and cached teachers leave free of this machine's disk."""
    return disks.reserve_bytes(settings.disk_reserve_bytes, _data_dir(settings))


def _data_dir(settings: Settings) -> Path:
    # A worker whose files are in an object store may be the first to use this folder.
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return settings.data_dir


class UploadMissing(Exception):
    """Storage does not have all of an upload's file. If the ledger has no such upload, the job fails with `error`."""

    def __init__(self, upload: str, error: JobError) -> None:
        super().__init__(error.detail)
        self.upload = upload
        self.error = error


class InputRefused(Exception):
    """An input can't be had, and trying again would not help: the job fails with `error`."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.detail)
        self.error = error


def prepare(
    folder: Path,
    claim: Claim,
    storage: Storage,
    settings: Settings,
    machine: TrainerMachine,
    check: Callable[[], None],
    size_of: Callable[[str], int | None],
) -> None:
    """Fill `folder` for the trainer. `check` is called between pieces of a file and may raise to interrupt.

    `size_of` looks into the ledger: it gives the bytes of a complete upload, and None for any other.

    Raises UploadMissing, InputRefused, and OSError when something is wrong with this machine.
    """
    spec = claim.spec
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    networks = (("teacher", spec.teacher, TEACHER_FILE), ("discriminator", spec.discriminator, DISCRIMINATOR_FILE))
    for field, network, file in networks:
        if network is not None:
            stored = layout.inspected_teacher(network.upload, network.sha256)
            missing = _upload_missing(network.upload, ErrorType.BAD_TEACHER, field, f"the {field} {network.upload}")
            _fetch_input(storage, stored, folder / file, check, missing)
    datasets = (
        ("dataset.upload", spec.dataset.upload, DATASET_FILE),
        ("dataset.test_upload", spec.dataset.test_upload, TEST_DATASET_FILE),
    )
    for field, upload, file in datasets:
        if upload is not None:
            missing = _upload_missing(upload, ErrorType.BAD_DATASET, field, f"the data set {upload}")
            _fetch_input(storage, layout.upload_data(upload), folder / file, check, missing)
            # Asked afterwards: an upload whose file was lost may have begun again meanwhile.
            if (folder / file).stat().st_size != size_of(upload):
                raise missing
    origin = None if spec.dataset.url is None else _fetch_dataset(settings, spec.dataset.url, folder, check)
    run = TrainerRun(
        device=claim.device,
        attempt=claim.attempt,
        is_trial=claim.study_id is not None,
        dataset_origin=origin,
        **machine.model_dump(),
    )
    (folder / RUN_FILE).write_text(run.model_dump_json())
    if claim.checkpoint is not None:
        fetch_checkpoint(storage, claim.checkpoint, folder / CHECKPOINT_FILE, check)


def _upload_missing(upload: str, type: ErrorType, field: str, what: str) -> UploadMissing:
    return UploadMissing(upload, JobError(type=type, detail=f"{what} was deleted: upload it again", field=field))


def _fetch_dataset(settings: Settings, url: str, folder: Path, check: Callable[[], None]) -> DatasetOrigin:
    """Raises InputRefused, and OSError during an outage."""
    # obstore is loaded only where it is used.
    from jobs.storage.dataset_stores import DatasetRefused, fetch_dataset

    try:
        return fetch_dataset(settings, url, folder / DATASET_FILE, check)
    except DatasetRefused as refused:
        error = JobError(type=ErrorType.BAD_DATASET, detail=str(refused), field="dataset.url")
        raise InputRefused(error) from refused


def _fetch_input(storage: Storage, key: str, path: Path, check: Callable[[], None], refusal: UploadMissing) -> None:
    """Raises `refusal` when storage does not have the key."""
    try:
        fetch(storage, key, path, check)
    except StorageKeyMissing as missing:
        raise refusal from missing


def fetch_checkpoint(storage: Storage, key: str, path: Path, check: Callable[[], None]) -> bool:
    """Returns False if storage has no such checkpoint. The training then starts from the beginning."""
    try:
        fetch(storage, key, path, check)
    except StorageKeyMissing:
        path.unlink(missing_ok=True)
        return False
    return True
