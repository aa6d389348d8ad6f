"""A real PostgreSQL and a real Valkey for the tests: those that are given, else embedded ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from service.embedded.servers import EmbeddedServers
from tests.ports import free_port
from tests.worker.bench import Bench, make_bench
from tests.worker.databases import DatabaseServer, LedgerPool
from tests.worker.mlflow_services import MlflowProcess

NOT_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")


@pytest.fixture(scope="session")
def service_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(database URL, broker URL)"""
    if "DATABASE_URL" in os.environ and "REDIS_URL" in os.environ:
        yield os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
        return
    with EmbeddedServers(tmp_path_factory.mktemp("services")) as embedded:
        # Nothing here must survive a crash of the machine.
        server = DatabaseServer.at(embedded.database_url)
        for setting in NOT_DURABLE:
            server.execute(f"ALTER SYSTEM SET {setting} = off")
        server.execute("SELECT pg_reload_conf()")
        server.engine.dispose()
        yield embedded.database_url, embedded.redis_url


@pytest.fixture(scope="session")
def database_server(service_urls: tuple[str, str]) -> Iterator[DatabaseServer]:
    server = DatabaseServer.at(service_urls[0])
    yield server
    server.engine.dispose()


@pytest.fixture(scope="session")
def migrated_template(database_server: DatabaseServer) -> Iterator[str]:
    """The name of a database with the current schema and no rows: a copy is made faster than the migrations run."""
    url = database_server.create()
    upgrade(url.render_as_string(hide_password=False))
    assert url.database is not None
    yield url.database
    database_server.drop(url)


@pytest.fixture(scope="session")
def ledgers(database_server: DatabaseServer, migrated_template: str) -> Iterator[LedgerPool]:
    pool = LedgerPool(database_server, migrated_template)
    yield pool
    pool.close()


@pytest.fixture
def database(ledgers: LedgerPool) -> Iterator[Database]:
    """An empty ledger of its own for each test."""
    with ledgers.ledger() as made:
        yield made


@pytest.fixture
def bench(database: Database, service_urls: tuple[str, str], tmp_path: Path) -> Bench:
    url = database.engine.url.render_as_string(hide_password=False)
    return make_bench(database, url, service_urls[1], tmp_path, lease_seconds=5)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowProcess]:
    """Shared by all tests, which have experiments and models of their own and never stop it: its start is slow."""
    server = MlflowProcess(tmp_path_factory.mktemp("mlflow"), free_port())
    server.start()
    yield server
    server.stop()
