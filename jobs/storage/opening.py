"""Opens the storage that the settings name."""

from __future__ import annotations

from jobs.settings import Settings
from jobs.storage.folder import FolderStorage
from jobs.storage.storage import Storage


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name. Raises OSError for a folder that can't be made."""
    if settings.storage_url is None:
        return FolderStorage(settings.storage_root)
    # obstore is loaded only where an object store is used.
    from jobs.storage.objects import ObjectStorage

    return ObjectStorage(settings)
