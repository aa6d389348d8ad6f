"""Where a command's database and broker come from: those that are given, those of a running service, or new ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from jobs.settings import Settings
from service.embedded import DataDirInUse, Embedded


class NotConfigured(Exception):
    """A command lacks an address that it needs."""


@contextmanager
def services(settings: Settings) -> Iterator[Settings]:
    """Settings with both addresses. Starts a database and a broker when none is given, for as long as it is entered.

    Raises NotConfigured when one is given without the other, DataDirInUse.
    """
    given = [settings.database_url, settings.redis_url]
    if all(given):
        yield settings
        return
    if any(given):
        raise NotConfigured("give both DATABASE_URL and REDIS_URL, or neither to have them brought along")
    with Embedded(settings.data_dir) as embedded:
        addresses = {"database_url": embedded.database_url, "redis_url": embedded.redis_url}
        yield settings.model_copy(update=addresses)


@contextmanager
def ledger(settings: Settings) -> Iterator[Database]:
    """The ledger alone, migrated: for commands that run beside the service or without it."""
    if settings.database_url is not None:
        database = Database(settings.database_url, pool_size=1)
        try:
            yield database
        finally:
            database.close()
        return
    try:
        with Embedded(settings.data_dir) as embedded:
            upgrade(embedded.database_url)
            with ledger(settings.model_copy(update={"database_url": embedded.database_url})) as own:
                yield own
    except DataDirInUse as running:
        if running.database_url is None:
            raise
        with ledger(settings.model_copy(update={"database_url": running.database_url})) as shared:
            yield shared
