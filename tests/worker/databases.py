"""Databases on the tests' PostgreSQL: an empty ledger for each test, without the cost of a new database for each.

From the import of this module on, the engines of all tests in this process share the statements that they compile. An
engine of its own for each test would compile each statement again, which took a third of the time of short tests.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import psycopg
from psycopg import sql
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import OperationalError

from jobs.database.connection import Database, connection_string, database_url
from jobs.database.models import Base, StorageMarker

SECONDS_TO_DISCONNECT = 5.0
DEFINITIONS = """
SELECT count(*), sum(xmin::text::bigint) FROM (
    SELECT xmin FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT xmin FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_trigger WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_namespace WHERE oid >= 16384
    UNION ALL SELECT xmin FROM storage_marker
    UNION ALL SELECT xmin FROM alembic_version
    UNION ALL SELECT setting.xmin FROM pg_db_role_setting AS setting
        JOIN pg_database AS this ON this.oid = setdatabase WHERE datname = current_database()
)
"""
"""Differs as soon as a definition, a setting or a row that a migration made is added, changed or removed.

The transactions that wrote the rows of the catalog say so; what has a number below 16384 is PostgreSQL's own. Relations
are seen by their types and columns: their own rows in pg_class are written by TRUNCATE too.
"""
LARGE_BYTES = 128 * 1024
TABLES = [table.name for table in Base.metadata.sorted_tables if table.name != StorageMarker.__tablename__]


class SharingDialect(PGDialect_psycopg):
    """psycopg's, which finds in the shared cache what equal dialects have compiled."""

    supports_statement_cache = True
    compiled: ClassVar[dict[Any, Any]] = {}

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=cls.compiled)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharingDialect) and self.server_version_info == other.server_version_info

    def __hash__(self) -> int:
        return hash(SharingDialect)


registry.register("postgresql.psycopg", __name__, SharingDialect.__name__)


@dataclass(frozen=True)
class DatabaseServer:
    """Makes, renames and drops databases."""

    engine: Engine

    @classmethod
    def at(cls, url: str) -> DatabaseServer:
        return cls(create_engine(database_url(url), isolation_level="AUTOCOMMIT"))

    def execute(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.execute(text(statement))

    def create(self, template: str = "template1") -> URL:
        """The URL of a new copy of `template`."""
        name = new_name()
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.engine.url.set(database=name)

    def drop(self, url: URL) -> None:
        self.execute(f"DROP DATABASE {url.database} WITH (FORCE)")

    def rename(self, url: URL) -> URL:
        """The URL of the same database under a new name."""
        name = new_name()
        self.execute(f"ALTER DATABASE {url.database} RENAME TO {name}")
        return url.set(database=name)

    def disconnect_all(self, url: URL) -> bool:
        """End all connections to the database, and wait until they are gone; False if there are always new ones."""
        end = time.monotonic() + SECONDS_TO_DISCONNECT
        query = text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :name")
        with self.engine.connect() as connection:
            while connection.scalar(query, {"name": url.database}):
                if time.monotonic() > end:
                    return False
                time.sleep(0.001)
        return True


def new_name() -> str:
    return f"lit_test_{secrets.token_hex(6)}"


@dataclass
class LedgerPool:
    """Empties the database that a test has used for the next test, which takes less time than a new copy of `template`.

    Each test sees another name, which the database gets before it is emptied, so that a process that an earlier test
    has left behind can't reach its rows. A database in which more than rows has changed is not used again.
    """

    server: DatabaseServer
    template: str
    free: list[tuple[URL, object]] = field(default_factory=list)
    """With the definitions of each when it was new."""

    @contextmanager
    def ledger(self) -> Iterator[Database]:
        """An empty ledger in a database that nobody else uses."""
        url, new = self._take()
        made = Database(url.render_as_string(hide_password=False))
        try:
            yield made
        finally:
            made.close()
            renamed = self._renamed(url)
            if renamed is not None and self._emptied(renamed, new):
                self.free.append((renamed, new))
            else:
                self.server.drop(renamed or url)

    def close(self) -> None:
        for url, _ in self.free:
            self.server.drop(url)

    def _take(self) -> tuple[URL, object]:
        if self.free:
            return self.free.pop()
        url = self.server.create(self.template)
        with connected(url) as connection:
            return url, definitions(connection)

    def _renamed(self, url: URL) -> URL | None:
        """The database under a name that nobody else knows; None if there are always new connections to it."""
        if not self.server.disconnect_all(url):
            return None
        try:
            return self.server.rename(url)
        except OperationalError:
            return None

    def _emptied(self, url: URL, new: object) -> bool:
        """Whether the renamed database has no rows any more, and otherwise is as it was when it was new."""
        with connected(url) as connection:
            if definitions(connection) != new:
                return False
            remove_rows(connection)
        return True


def connected(url: URL) -> psycopg.Connection:
    """A connection that owes nothing to the engines of the tests, on which they may have played tricks."""
    return psycopg.connect(connection_string(url.render_as_string(hide_password=False)), autocommit=True)


def definitions(connection: psycopg.Connection) -> object:
    try:
        return connection.execute(DEFINITIONS).fetchone()
    except psycopg.errors.UndefinedTable:
        return None


def remove_rows(connection: psycopg.Connection) -> None:
    """Leave the ledger as the migrations made it.

    Truncating a table takes ten times as long as deleting a few rows, but leaves no room of deleted rows to read.
    """
    look = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, pg_relation_size({}) WHERE EXISTS (SELECT FROM {})").format(
            name, sql.Literal(name), sql.Identifier(name)
        )
        for name in TABLES
    )
    statements = [
        sql.SQL("TRUNCATE {} CASCADE" if size > LARGE_BYTES else "DELETE FROM {}").format(sql.Identifier(name))
        for name, size in connection.execute(look).fetchall()
    ]
    # Without triggers: neither keys to other tables nor the ledger's own rules keep a row.
    connection.execute(sql.SQL("; ").join([sql.SQL("SET session_replication_role = replica"), *statements]))
