"""Fetches the data sets that jobs name by URL, from the stores that the operator allows."""

from __future__ import annotations

import errno
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore

from jobs.settings import Settings
from jobs.storage.faults import StorageFault
from jobs.storage.object_files import Segment, open_segments
from jobs.storage.object_stores import missing_as, object_faults, open_store
from jobs.storage.storage import StorageKeyMissing
from lit_spec.trainer.run import DatasetOrigin

CHUNK_BYTES = 8 << 20
MOST_FILES = 1_000_000
CONCURRENT_FILES = 16
PROBE_SECONDS = 5.0
SMALL_BYTES = 4 << 20
"""Files up to this size are fetched several at a time."""


class DatasetRefused(Exception):
    """The data set can't be fetched, and trying again would not help. The text says why."""


def fetch_dataset(settings: Settings, url: str, path: Path, check: Callable[[], None]) -> DatasetOrigin:
    """Copy the data set to a file; a folder of objects becomes a zip archive.

    `check` is called between pieces and may raise to interrupt. Raises DatasetRefused, and StorageFault for an outage.
    """
    if not url.startswith(settings.dataset_prefixes):
        raise DatasetRefused(f"this worker may not read {url}: the operator must list its store in LIT_DATASET_STORES")
    parts = urlsplit(url)
    store, key = open_store(f"{parts.scheme}://{parts.netloc}", settings), parts.path.lstrip("/")
    try:
        if key.endswith("/") or not key:
            return _fetch_folder(store, url, key, path, check, settings.max_upload_bytes)
        return _fetch_object(store, url, key, path, check, settings.max_upload_bytes)
    except StorageKeyMissing as missing:
        raise DatasetRefused(
            f"there is no object {url}: correct dataset.url, which ends in a slash for a folder"
        ) from missing
    except StorageFault as fault:
        if fault.errno == errno.EACCES:
            raise DatasetRefused(f"{url} can't be read: {fault.strerror}; the operator must grant it") from fault
        raise


def check_dataset_store(settings: Settings, prefix: str) -> None:
    """Raises StorageFault if nothing can be listed there."""
    store = open_store(prefix, settings, timeout=PROBE_SECONDS, retry=0)
    with object_faults(prefix):
        next(iter(obstore.list(store, chunk_size=1)), None)


def _fetch_object(
    store: Any, url: str, key: str, path: Path, check: Callable[[], None], most_bytes: int
) -> DatasetOrigin:
    with missing_as(key):
        found = obstore.head(store, key)
    _check_size(url, found["size"], most_bytes)
    with open_segments(store, key, [_segment(found)]) as source, path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            check()
            target.write(chunk)
    etag = found["e_tag"] and found["e_tag"].strip('"')
    return DatasetOrigin(url=url, files=1, bytes=found["size"], etag=etag, version=found["version"])


def _fetch_folder(
    store: Any, url: str, key: str, path: Path, check: Callable[[], None], most_bytes: int
) -> DatasetOrigin:
    listed: list[Any] = []
    with missing_as(key):
        for some in obstore.list(store, key or None):
            check()
            listed += some
            if len(listed) > MOST_FILES:
                raise DatasetRefused(f"{url} has more than {MOST_FILES} objects: pack them into an archive")
    if not listed:
        raise StorageKeyMissing(key)
    listed.sort(key=lambda found: str(found["path"]))
    size = sum(found["size"] for found in listed)
    _check_size(url, size, most_bytes)
    _pack(store, listed, len(key), path, check)
    return DatasetOrigin(url=url, files=len(listed), bytes=size, etag=_etag_of_folder(listed, len(key)), version=None)


def _pack(store: Any, listed: Sequence[Any], cut: int, path: Path, check: Callable[[], None]) -> None:
    """Write the objects into a zip archive, under their keys from character `cut` on."""

    def read_small(found: Any) -> bytes | None:
        return _read(store, found) if found["size"] <= SMALL_BYTES else None

    with zipfile.ZipFile(path, "w") as archive, ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        for start in range(0, len(listed), CONCURRENT_FILES):
            some = listed[start : start + CONCURRENT_FILES]
            for found, content in zip(some, pool.map(read_small, some), strict=True):
                check()
                # A fixed time: the archive depends on nothing but the objects.
                info = zipfile.ZipInfo(found["path"][cut:])
                if content is not None:
                    archive.writestr(info, content)
                    continue
                with (
                    open_segments(store, found["path"], [_segment(found)]) as source,
                    archive.open(info, "w", force_zip64=True) as target,
                ):
                    while chunk := source.read(CHUNK_BYTES):
                        check()
                        target.write(chunk)


def _read(store: Any, found: Any) -> bytes:
    with open_segments(store, found["path"], [_segment(found)]) as source:
        return source.read()


def _segment(found: Any) -> Segment:
    return Segment(found["path"], found["size"], found["e_tag"])


def _check_size(url: str, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise DatasetRefused(
            f"{url} has {size} bytes, but a data set may have {most_bytes}: name a smaller one, or ask the operator to "
            "raise LIT_MAX_UPLOAD_BYTES"
        )


def _etag_of_folder(listed: Sequence[Any], cut: int) -> str:
    """It changes when an object is added, removed, renamed or replaced."""
    found = hashlib.sha256()
    for item in listed:
        found.update(f"{item['path'][cut:]}\0{item['size']}\0{item['e_tag']}\n".encode())
    return found.hexdigest()
