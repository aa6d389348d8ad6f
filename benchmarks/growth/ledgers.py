"""The two ledgers that are compared: two databases of one PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, create_engine, text

from benchmarks.growth.cases import Ledger
from benchmarks.growth.load import load
from benchmarks.growth.rows import Rows
from benchmarks.growth.sizes import Sizes
from jobs.database.connection import Database, database_url
from jobs.database.migrate import upgrade

GIB = 1 << 30
LARGEST_TABLES = 6
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_wal_size": "8GB"}


@dataclass(frozen=True)
class Pair:
    small: Ledger
    large: Ledger


@contextmanager
def two_ledgers(url: str, sizes: Sizes, tell: Callable[[str], None] = lambda _: None) -> Iterator[Pair]:
    """A small and a large ledger, filled, in new databases of the server at `url`. They are dropped in the end."""
    with _filled(url, "small", sizes.small(), tell) as small, _filled(url, "large", sizes, tell) as large:
        yield Pair(small, large)


@contextmanager
def not_durable(url: str) -> Iterator[None]:
    """While rows are loaded nothing must survive a crash. Afterwards the server is as it was, with all on the disk."""
    with _server(url) as connection:
        for setting, value in NOT_DURABLE.items():
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = '{value}'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield
        for setting in NOT_DURABLE:
            connection.exec_driver_sql(f"ALTER SYSTEM RESET {setting}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        connection.exec_driver_sql("CHECKPOINT")


def gib_on_disk(ledger: Ledger) -> dict[str, float]:
    """Of the database, and of its largest tables with their indexes."""
    tables = text(
        "SELECT relname, pg_total_relation_size(oid) AS bytes FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY bytes DESC LIMIT :most"
    )
    with ledger.database.session() as session:
        whole = session.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        largest = {name: round(size / GIB, 3) for name, size in session.execute(tables, {"most": LARGEST_TABLES})}
    return {"database": round(whole / GIB, 3), **largest}


@contextmanager
def _filled(url: str, name: str, sizes: Sizes, tell: Callable[[str], None]) -> Iterator[Ledger]:
    until = datetime.now(UTC) - timedelta(hours=1)
    with _new_database(url) as own:
        upgrade(own)
        database = Database(own)
        try:
            load(database, sizes, until, lambda what: tell(f"{name}: {what}"))
            with database.session() as session:
                # Alive for the whole measurement.
                session.execute(text("UPDATE workers SET last_seen = clock_timestamp() + interval '1 day'"))
            yield Ledger(database, Rows(sizes, until))
        finally:
            database.close()


@contextmanager
def _new_database(url: str) -> Iterator[str]:
    name = f"growth_{secrets.token_hex(6)}"
    with _server(url) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield database_url(url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _server(url: str) -> Iterator[Connection]:
    engine = create_engine(database_url(url), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
