"""Finds a command's database and broker: the given ones, those of a running service, or new embedded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from jobs.settings import Settings
from service.embedded.servers import EmbeddedServers
from service.errors import DataDirInUse, NotConfigured
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
def open_ledger(settings: Settings) -> Iterator[Database]:
    """The ledger, for commands that work with or without a running service. An embedded ledger is migrated first."""
    if settings.database_url is not None:
        database = Database(settings.database_url, pool_size=1)
        try:
            yield database
        finally:
            database.close()
        return
    try:
        with EmbeddedServers(settings.data_dir) as servers:
            upgrade(servers.database_url)
            with open_ledger(settings.model_copy(update={"database_url": servers.database_url})) as own:
                yield own
    except DataDirInUse as running:
        if running.database_url is None:
            raise
        with open_ledger(settings.model_copy(update={"database_url": running.database_url})) as shared:
            yield shared
