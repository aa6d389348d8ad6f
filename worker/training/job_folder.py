"""The job folder: what a trainer reads and writes, on the worker's own disk, gone when the attempt ends."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
)
from lit_spec.trainer.run import TrainerMachine, TrainerRun

CHUNK_BYTES = 8 << 20
LOCK_NAME = "lock"


def trainer_machine(settings: Settings) -> TrainerMachine:
    """What every trainer of this worker is told about the machine."""
    return TrainerMachine(
        threads=settings.threads,
        datasets=settings.datasets_dir and settings.datasets_dir.resolve(),
        datasets_download=settings.datasets_download,
        feature_network=settings.feature_network and settings.feature_network.resolve(),
    )


class UploadMissing(Exception):
    """Storage lacks the file of an upload. `error` is the job's, should the upload be gone from the ledger as well."""

    def __init__(self, upload: str, error: JobError) -> None:
        super().__init__(error.detail)
        self.upload = upload
        self.error = error


class Workplace:
    """A folder of this process under `root`, locked while it lives, so that others can tell what a dead one left."""

    def __init__(self, root: Path, name: str) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = root / name
        with _locked(root / LOCK_NAME):
            remove_leftovers(root)
            self.path.mkdir(mode=0o700)
            self._lock = _open_lock(self.path / LOCK_NAME)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """An empty folder for one piece of work, removed afterwards."""
        path = self.path / name
        path.mkdir(mode=0o700)
        try:
            yield path.resolve()
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_leftovers(root: Path) -> list[str]:
    """Remove the workplaces under `root` whose process is dead, and return their names."""
    removed = []
    for place in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        lock = _open_lock(place / LOCK_NAME)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(place, ignore_errors=True)
            removed.append(place.name)
        finally:
            os.close(lock)
    return removed


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def prepare(folder: Path, claim: Claim, storage: Storage, machine: TrainerMachine, check: Callable[[], None]) -> None:
    """Fill `folder` for the trainer. `check` is called between pieces and may raise to break off.

    Raises UploadMissing, and OSError for this machine's own troubles.
    """
    spec = claim.spec
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    run = TrainerRun(device=claim.device, attempt=claim.attempt, **machine.model_dump())
    (folder / RUN_FILE).write_text(run.model_dump_json())
    networks = (("teacher", spec.teacher, TEACHER_FILE), ("discriminator", spec.discriminator, DISCRIMINATOR_FILE))
    for field, network, file in networks:
        if network is not None:
            stored = layout.inspected_teacher(network.upload)
            gone = _gone(network.upload, ErrorType.BAD_TEACHER, field, f"the {field} {network.upload}")
            _fetch_input(storage, stored, folder / file, check, gone)
    if spec.dataset.upload is not None:
        upload = spec.dataset.upload
        gone = _gone(upload, ErrorType.BAD_DATASET, "dataset.upload", f"the data set {upload}")
        _fetch_input(storage, layout.upload_data(upload), folder / DATASET_FILE, check, gone)
    if claim.checkpoint is not None:
        fetch_checkpoint(storage, claim.checkpoint, folder / CHECKPOINT_FILE, check)


def _gone(upload: str, type: ErrorType, field: str, what: str) -> UploadMissing:
    return UploadMissing(upload, JobError(type=type, detail=f"{what} was deleted: upload it again", field=field))


def _fetch_input(storage: Storage, key: str, path: Path, check: Callable[[], None], gone: UploadMissing) -> None:
    """Raises `gone` when the object is."""
    try:
        fetch(storage, key, path, check)
    except StorageKeyMissing as missing:
        raise gone from missing


def fetch_checkpoint(storage: Storage, key: str, path: Path, check: Callable[[], None]) -> bool:
    """False when it is gone: then the training starts anew, which costs time but loses nothing else."""
    try:
        fetch(storage, key, path, check)
    except StorageKeyMissing:
        path.unlink(missing_ok=True)
        return False
    return True


def fetch(storage: Storage, key: str, path: Path, check: Callable[[], None]) -> None:
    """Copy an object to a file, piece by piece, so that a cancel need not wait for a large one."""
    with storage.open(key) as source, path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            check()
            target.write(chunk)
