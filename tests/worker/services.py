"""A real PostgreSQL and a real Valkey for the tests: those that are given, else embedded ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, text

from jobs.database.connection import Database, database_url
from jobs.database.migrate import upgrade
from service.embedded.servers import EmbeddedServers
from tests.worker.bench import Bench, make_bench


@dataclass(frozen=True)
class DatabaseServer:
    """Makes and drops databases."""

    engine: Engine

    @classmethod
    def at(cls, url: str) -> DatabaseServer:
        return cls(create_engine(database_url(url), isolation_level="AUTOCOMMIT"))

    def execute(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.execute(text(statement))

    @contextmanager
    def new_database(self, template: str = "template1") -> Iterator[URL]:
        """The URL of a copy of `template`, which is dropped at the end."""
        name = f"lit_test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.engine.url.set(database=name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def service_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(database URL, broker URL)"""
    if "DATABASE_URL" in os.environ and "REDIS_URL" in os.environ:
        yield os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
        return
    with EmbeddedServers(tmp_path_factory.mktemp("services")) as embedded:
        # Nothing here must survive a crash of the machine.
        server = DatabaseServer.at(embedded.database_url)
        server.execute("ALTER SYSTEM SET fsync = off")
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
    with database_server.new_database() as url:
        upgrade(url.render_as_string(hide_password=False))
        assert url.database is not None
        yield url.database


@contextmanager
def new_ledger(server: DatabaseServer, template: str) -> Iterator[Database]:
    """An empty ledger in a database of its own, which goes at the end."""
    with server.new_database(template) as url:
        made = Database(url.render_as_string(hide_password=False))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def database(database_server: DatabaseServer, migrated_template: str) -> Iterator[Database]:
    """An empty ledger of its own for each test."""
    with new_ledger(database_server, migrated_template) as made:
        yield made


@pytest.fixture
def bench(database: Database, service_urls: tuple[str, str], tmp_path: Path) -> Bench:
    url = database.engine.url.render_as_string(hide_password=False)
    return make_bench(database, url, service_urls[1], tmp_path, lease_seconds=5)
