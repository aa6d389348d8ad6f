"""Statements that are transactions of their own."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from jobs.database.connection import Database
from jobs.database.outages import is_outage
from tests.worker.bench import Bench


@pytest.fixture
def one_connection(bench: Bench) -> Database:
    """So that each statement gets the connection that the one before has used."""
    url = bench.database.engine.url.render_as_string(hide_password=False)
    return Database(url, pool_size=1)


def owners(database: Database) -> list[str]:
    with database.session() as session:
        return list(session.scalars(text("SELECT owner FROM owner_bytes ORDER BY owner")))


ADD = "INSERT INTO owner_bytes (owner, bytes) VALUES (%(owner)s, 1) RETURNING owner"


def test_a_statement_is_committed_and_leaves_transactions_to_others(one_connection: Database) -> None:
    database = one_connection
    assert database.statement(ADD, {"owner": "a"}) == ("a",)
    with database.session() as session:
        session.execute(text("INSERT INTO owner_bytes (owner, bytes) VALUES ('b', 1)"))
        session.rollback()
    assert owners(database) == ["a"]
    with pytest.raises(IntegrityError) as refused:
        database.statement(ADD, {"owner": "a"})
    assert not is_outage(refused.value)
    assert database.statement(ADD, {"owner": "c"}) == ("c",)
    assert owners(database) == ["a", "c"]
    database.close()


def test_a_connection_that_breaks_is_an_outage_and_is_not_used_again(one_connection: Database) -> None:
    database = one_connection
    with pytest.raises(OperationalError) as failure:
        database.statement("SELECT pg_terminate_backend(pg_backend_pid())", {})
    assert isinstance(failure.value, DBAPIError)
    assert failure.value.connection_invalidated
    assert is_outage(failure.value)
    assert database.statement("SELECT 1", {}) == (1,)
    database.close()
