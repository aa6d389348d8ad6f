"""Connections to object stores: S3 and what is compatible with it, Google Cloud Storage and Azure, by obstore.

Credentials and endpoints come from each store's usual environment variables.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import from_url

from jobs.settings import Settings
from jobs.storage.faults import StorageFault
from jobs.storage.storage import StorageKeyMissing

CONNECT_SECONDS = 5
MOST_RETRIES = 100
"""The time for retries is the limit that counts."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL")
MISSING = "the object store has no such bucket or object"
FULL_CODES = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"})


def open_store(url: str, settings: Settings, *, timeout: float | None = None, retry: float | None = None) -> Any:
    """The ObjectStore of a bucket and prefix; no request is made. `timeout` and `retry` in seconds, instead of the
    settings'. Raises StorageFault if the environment's settings of the store are wrong."""
    timeout = settings.storage_timeout_seconds if timeout is None else timeout
    retry = settings.storage_retry_seconds if retry is None else retry
    options: dict[str, Any] = {
        "client_options": {
            "timeout": timedelta(seconds=timeout),
            "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, timeout)),
            "allow_http": any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS),
        },
        "retry_config": {
            "max_retries": MOST_RETRIES if retry else 0,
            "retry_timeout": timedelta(seconds=retry),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    }
    make: Callable[..., Any] = from_url  # its overloads know no options in a dict
    try:
        return make(url, **options, **(_encryption(settings) if url.startswith("s3://") else {}))
    except (BaseError, ValueError) as wrong:
        reason = str(wrong).partition("\n")[0]
        raise StorageFault(errno.EINVAL, f"the object store's settings are wrong: {reason}") from wrong


def _encryption(settings: Settings) -> dict[str, str]:
    wanted = {"server_side_encryption": settings.storage_encryption, "sse_kms_key_id": settings.storage_kms_key}
    return {name: value for name, value in wanted.items() if value is not None}


@contextmanager
def missing_as(key: str) -> Iterator[None]:
    """Raise StorageKeyMissing where the store has no such object, and StorageFault for every other failure."""
    try:
        with object_faults(key):
            yield
    except StorageFault as fault:
        if fault.errno == errno.ENOENT:
            raise StorageKeyMissing(key) from fault
        raise


@contextmanager
def object_faults(key: str | None = None) -> Iterator[None]:
    """Raise StorageFault in place of the failures of an object store.

    Its reason names neither bucket nor address, because callers of the API see it; its cause has them.
    """
    try:
        yield
    except FileNotFoundError as missing:
        raise StorageFault(errno.ENOENT, MISSING, key) from missing
    except PreconditionError as failure:
        raise StorageFault(errno.ESTALE, "the object was replaced while it was read", key) from failure
    except (PermissionDeniedError, UnauthenticatedError) as failure:
        raise StorageFault(errno.EACCES, f"the object store refuses access{_code(str(failure))}", key) from failure
    except BaseError as failure:
        text = str(failure)
        if "<Code>NoSuchBucket</Code>" in text:
            raise StorageFault(errno.ENOENT, MISSING, key) from failure
        full = any(f"<Code>{code}</Code>" in text for code in FULL_CODES) or "status code: 507" in text
        raise StorageFault(errno.EDQUOT if full else errno.EIO, _reason(text), key) from failure


def _reason(text: str) -> str:
    if (status := re.search(r"status code: (\d{3}[ A-Za-z]*)", text)) is not None:
        return f"the object store answers {status[1].strip()}{_code(text)}"
    cause = re.search(r"HTTP error: ([^\n]*)", text)
    return "the object store can't be reached" + (f" ({cause[1].strip()})" if cause else "")


def _code(text: str) -> str:
    code = re.search(r"<Code>([A-Za-z.]+)</Code>", text)
    return f" ({code[1]})" if code else ""
