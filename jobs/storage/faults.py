"""Faults of storage, apart from those of other disks, whose errors are OSErrors as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class StorageFault(OSError):
    """The storage can't be read or written. It has the errno of its cause."""


@contextmanager
def storage_faults() -> Iterator[None]:
    """Raise StorageFault in place of any other OSError."""
    try:
        yield
    except StorageFault:
        raise
    except OSError as failure:
        raise StorageFault(failure.errno, failure.strerror or str(failure), failure.filename) from failure
