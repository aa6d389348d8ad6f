"""The databases that tests take over from one another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from jobs.database.connection import Database
from tests.worker.databases import DatabaseServer, LedgerPool

ROWS = "INSERT INTO workers VALUES ('w', 'host', '{cpu}', '{1}')"
MANY_ROWS = "INSERT INTO workers SELECT 'w' || n, 'host', '{cpu}', '{1}' FROM generate_series(1, 2000) AS n"
CHANGES = [
    "ALTER TABLE jobs DISABLE TRIGGER USER",
    "ALTER TABLE workers RENAME TO workers_away",
    "CREATE FUNCTION seven() RETURNS int LANGUAGE sql AS 'SELECT 7'",
    "CREATE INDEX more ON workers (id)",
    "CREATE VIEW more AS SELECT 7 AS seven",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$",
    "DROP INDEX ix_jobs_queued",
    "DROP TABLE alembic_version",
    "UPDATE storage_marker SET id = 'another'",
]


@pytest.fixture
def pool(database_server: DatabaseServer, migrated_template: str) -> Iterator[LedgerPool]:
    pool = LedgerPool(database_server, migrated_template)
    yield pool
    pool.close()


def number_after(pool: LedgerPool, *statements: str) -> int:
    """PostgreSQL's number of the database in which the statements ran."""
    with pool.ledger() as database, database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM workers")) == 0
        for statement in statements:
            session.execute(text(statement))
        return int(session.execute(text("SELECT oid FROM pg_database WHERE datname = current_database()")).scalar_one())


def test_a_database_with_new_rows_is_emptied_and_used_again(pool: LedgerPool) -> None:
    assert number_after(pool, ROWS) == number_after(pool, MANY_ROWS) == number_after(pool, ROWS) == number_after(pool)


@pytest.mark.parametrize("change", CHANGES)
def test_a_database_in_which_more_has_changed_is_not_used_again(pool: LedgerPool, change: str) -> None:
    assert number_after(pool, ROWS, change) != number_after(pool)


def test_whoever_is_left_behind_by_a_test_does_not_reach_the_next(pool: LedgerPool) -> None:
    with pool.ledger() as database:
        left = Database(database.engine.url.render_as_string(hide_password=False))
        with left.session() as session:
            session.execute(text(ROWS))
        left_open = left.engine.connect()
    # Neither while the database waits for its next test, nor in that test.
    for _ in range(2):
        with pytest.raises(OperationalError), left.session() as session:
            session.execute(text(ROWS))
    with pool.ledger() as database:
        for _ in range(2):
            with pytest.raises(OperationalError), left.session() as session:
                session.execute(text(ROWS))
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM workers")) == 0
    left_open.close()
    left.close()
