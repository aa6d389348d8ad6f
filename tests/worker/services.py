"""A real PostgreSQL and a real Valkey for the tests of worker and faults: those that are given, else embedded ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from service.embedded.servers import EmbeddedServers
from tests.worker.bench import Bench, make_bench


@pytest.fixture(scope="session")
def service_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(database URL, broker URL)"""
    if "DATABASE_URL" in os.environ and "REDIS_URL" in os.environ:
        yield os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
        return
    with EmbeddedServers(tmp_path_factory.mktemp("services")) as embedded:
        yield embedded.database_url, embedded.redis_url


@contextmanager
def new_ledger(database_url: str) -> Iterator[Database]:
    """An empty ledger in a database of its own, which goes at the end."""
    server = Database(database_url)
    url = server.engine.url
    name = f"lit_test_{secrets.token_hex(6)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    own = url.set(database=name).render_as_string(hide_password=False)
    upgrade(own)
    made = Database(own)
    yield made
    made.engine.dispose()
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()
    server.engine.dispose()


@pytest.fixture
def database(service_urls: tuple[str, str]) -> Iterator[Database]:
    """An empty ledger of its own for each test."""
    with new_ledger(service_urls[0]) as made:
        yield made


@pytest.fixture
def bench(database: Database, service_urls: tuple[str, str], tmp_path: Path) -> Bench:
    url = database.engine.url.render_as_string(hide_password=False)
    return make_bench(database, url, service_urls[1], tmp_path, lease_seconds=5, heartbeat_seconds=0.5)
