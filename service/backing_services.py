"""Finds a command's database and broker: the given ones, those of a running service, or new embedded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from jobs.settings import Settings
from service.embedded.servers import EmbeddedServers, has_database
from service.errors import DataDirInUse, NoDatabase, NotConfigured
from service.minder import ProcessMinder, RestartPolicy


@contextmanager
def backing_services(settings: Settings, on_failure: Callable[[], None]) -> Iterator[tuple[Settings, ProcessMinder]]:
    """Settings with both addresses, and a process minder.

    Without addresses PostgreSQL and Valkey are started as the minder's first child processes. Raises NotConfigured
    when one address is given without the other, DataDirInUse, ChildFailed.
    """
    given = [settings.database_url, settings.redis_url]
    policy = RestartPolicy(first_pause=settings.restart_seconds)
    if all(given):
        with ProcessMinder(on_failure, policy=policy) as minder:
            yield settings, minder
        return
    if any(given):
        raise NotConfigured(
            "only one of DATABASE_URL and REDIS_URL is set: set both, or neither to use embedded servers"
        )
    with EmbeddedServers(settings.data_dir, on_failure, policy=policy) as servers:
        addresses = {"database_url": servers.database_url, "redis_url": servers.redis_url}
        yield settings.model_copy(update=addresses), servers.minder


@contextmanager
def open_ledger(settings: Settings, *, create: bool) -> Iterator[Database]:
    """The ledger, for commands that work with or without a running service.

    With `create` an embedded ledger is made or migrated first; without, it is left as it is. Raises NoDatabase.
    """
    if settings.database_url is not None:
        with _open(settings.database_url) as given:
            yield given
        return
    if not create and not has_database(settings.data_dir):
        raise NoDatabase(
            f"there is no database in {settings.data_dir}: set LIT_DATA_DIR to the folder of one, or DATABASE_URL to "
            "its address (`litc serve` and `litc keys create` make one)"
        )
    try:
        with EmbeddedServers(settings.data_dir, broker=False) as servers:
            if create:
                upgrade(servers.database_url)
            with _open(servers.database_url) as own:
                yield own
    except DataDirInUse as running:
        if running.database_url is None:
            raise
        with _open(running.database_url) as shared:
            yield shared


@contextmanager
def open_empty_ledger(settings: Settings) -> Iterator[Database]:
    """The database that a backup is restored into, without a schema. Raises DataDirInUse if a service runs."""
    if settings.database_url is not None:
        with _open(settings.database_url) as given:
            yield given
        return
    with EmbeddedServers(settings.data_dir, broker=False) as servers, _open(servers.database_url) as own:
        yield own


@contextmanager
def _open(url: str) -> Iterator[Database]:
    database = Database(url, pool_size=1)
    try:
        yield database
    finally:
        database.close()
