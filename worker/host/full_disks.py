"""Whether this worker's disks take anything: its own, and that of the storage."""

from __future__ import annotations

from pathlib import Path

from jobs import disks
from jobs.storage.faults import StorageFault
from jobs.storage.marker import storage_fault
from jobs.storage.storage import Storage


def storing_fault(storage: Storage, marker: str, folder: Path) -> str | None:
    """Why a worker can't do its work: its storage isn't the ledger's, or it or this worker's `folder` takes nothing."""
    return storage_fault(storage, marker) or _storage_disk_fault(storage) or work_disk_fault(folder)


def _storage_disk_fault(storage: Storage) -> str | None:
    """Why nothing can be stored; None if something can."""
    try:
        storage.check()
    except StorageFault as failure:
        return f"the storage can't be written: {disks.reason(failure)}"
    return None


def work_disk_fault(folder: Path) -> str | None:
    """That the disk of this folder is full; None if it is not."""
    try:
        disks.probe(folder)
    except OSError as failure:
        if disks.is_full(failure):
            return f"the disk of the worker's folder {folder} is full"
    return None
