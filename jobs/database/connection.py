"""The connection to PostgreSQL: one pool per process, one transaction per session; reads need none."""

from __future__ import annotations

import select as selecting
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, NoResultFound
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

# With the default lease, a heartbeat to a server that is cut off fails before the lease expires.
CONNECT_ARGS: dict[str, str | int] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "lit",
}
IDLE_TRANSACTION_SECONDS = 60.0
IDLE_TIMEOUT = "idle_in_transaction_session_timeout"
"""The server's setting, in milliseconds."""


def database_url(url: str) -> URL:
    """The URL with the psycopg driver, whichever spelling its scheme has.

    Raises ValueError if it is not the URL of a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as broken:
        raise ValueError("DATABASE_URL is not a URL: it must look like postgresql://user@host:5432/name") from broken
    if parsed.drivername not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError(f"DATABASE_URL has the scheme {parsed.drivername}: it must be postgresql://")
    return parsed.set(drivername="postgresql+psycopg")


def connection_string(url: str) -> str:
    """The same database in the spelling of libpq, for connections outside the pool."""
    plain = database_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return make_conninfo(plain, **CONNECT_ARGS)


class Database:
    """Sessions on one database. Objects stay readable after their session is closed.

    The server ends a transaction that has been idle for `idle_transaction_seconds`, so that a process that stands still
    holds no lock for ever.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, idle_transaction_seconds: float = IDLE_TRANSACTION_SECONDS
    ) -> None:
        overflow = pool_size
        self.most_connections = pool_size + overflow
        self.engine: Engine = create_engine(
            database_url(url),
            pool_size=pool_size,
            max_overflow=overflow,
            pool_timeout=10,
            connect_args=CONNECT_ARGS,
        )

        @event.listens_for(self.engine, "connect")
        def _limit_idle_transactions(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
            connection.cursor().execute(f"SET {IDLE_TIMEOUT} = {idle_transaction_seconds * 1000:.0f}")
            connection.commit()

        @event.listens_for(self.engine, "checkout")
        def _replace_closed(
            connection: psycopg.Connection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
        ) -> None:
            if _is_closed(connection):
                raise InvalidatePoolError("the server has closed the connection")

        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._reads = sessionmaker(self.engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back when an exception leaves it."""
        with self._sessions.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """For reads: each statement is a round trip of its own, without BEGIN and COMMIT around it.

        Two statements may see different states of the ledger. What must be seen together is read by one.
        """
        with self._reads() as session:
            yield session

    def statement(self, sql: str, parameters: Mapping[str, Any]) -> TupleRow:
        """Run one statement that is a transaction of its own, and return its one row: for what is asked most often.

        `sql` has parameters as psycopg writes them, `%(name)s`. Without SQLAlchemy's layers the round trip takes a
        fraction of the processor's time; errors are the same as with them.
        """
        with self.engine.connect() as pooled:
            connection: psycopg.Connection = pooled.connection.driver_connection  # type: ignore[assignment]
            try:
                connection.autocommit = True
                try:
                    row = connection.execute(sql.encode(), parameters).fetchone()
                finally:
                    if not connection.closed:
                        connection.autocommit = False
            except psycopg.Error as failure:
                if connection.closed:
                    pooled.invalidate(failure)
                raise DBAPIError.instance(
                    sql, None, failure, psycopg.Error, connection_invalidated=connection.closed
                ) from failure
        if row is None:
            raise NoResultFound("the statement returned no row")
        return row

    def close(self) -> None:
        self.engine.dispose()


def one_line(sql: str) -> str:
    """The statement without its indentation: psycopg remembers the parameters of statements up to 4,096 characters."""
    return " ".join(sql.split())


def _is_closed(connection: psycopg.Connection) -> bool:
    """Whether the server has ended an idle connection, as a restart does: found without a round trip.

    Nothing but the end is expected on an idle connection, so that one with something to read is not used again.
    """
    if connection.closed:
        return True
    poll = selecting.poll()
    poll.register(connection.fileno(), selecting.POLLIN)
    return bool(poll.poll(0))


def allow_idle(transaction: Session | Connection, seconds: float, *, only_locks: bool = False) -> None:
    """Let this transaction be idle for so long, instead of what is usual for its database.

    `only_locks`: it changes no row, so its end need not wait for the database's disk. A lock of a row is logged too.
    """
    settings = {IDLE_TIMEOUT: f"{seconds * 1000:.0f}"}
    if only_locks:
        settings["synchronous_commit"] = "off"
    transaction.execute(select(*(func.set_config(name, value, True) for name, value in settings.items())))


def clock(session: Session) -> datetime:
    """The time by the database's clock, which is the only clock that all processes share.

    A condition compares with `statement_timestamp()` instead: indexes can't be searched for `clock_timestamp()`, which
    differs from row to row.
    """
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now
