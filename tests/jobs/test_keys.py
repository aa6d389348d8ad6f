"""API keys open the door until they are revoked, and cannot be read out of the database."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from jobs.database.connection import Database
from jobs.errors import NotFound
from jobs.ledger import keys


def new(database: Database, name: str) -> tuple[str, str]:
    """Id and secret."""
    with database.session() as session:
        key, secret = keys.create(session, name)
        return key.id, secret


def owner(database: Database, secret: str) -> str | None:
    with database.session() as session:
        found = keys.authenticate(session, secret)
        return None if found is None else found.owner


def test_a_key_is_its_owner_until_it_is_revoked(database: Database) -> None:
    with database.session() as session:
        assert not keys.any_keys(session)
    (first, first_secret), (second, second_secret) = new(database, "same name"), new(database, "same name")
    assert first_secret != second_secret
    assert owner(database, first_secret) == first
    assert owner(database, second_secret) == second
    for wrong in (
        "",
        first,
        first_secret[:-1],
        first_secret + "x",
        first_secret.upper(),
        keys.hash_secret(first_secret),
    ):
        assert owner(database, wrong) is None

    with database.session() as session:
        revoked_at = keys.revoke(session, first).revoked_at
    assert revoked_at is not None
    assert owner(database, first_secret) is None
    assert owner(database, second_secret) == second
    with database.session() as session:
        assert keys.any_keys(session)
        assert keys.revoke(session, first).revoked_at == revoked_at
        assert [(key.id, key.revoked_at is None) for key in keys.all_keys(session)] == [(first, False), (second, True)]
        keys.revoke(session, second)
        assert not keys.any_keys(session)
        with pytest.raises(NotFound):
            keys.revoke(session, "key_missing")


def test_the_secret_is_nowhere_in_the_database(database: Database) -> None:
    _, secret = new(database, "laptop")
    with database.engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [str(row) for table in tables for row in connection.scalars(text(f"SELECT t::text FROM {table} AS t"))]
    stored = "\n".join(rows)
    # The first characters tell keys apart; of what follows nothing is kept.
    assert secret[: keys.SHOWN_CHARACTERS] in stored
    assert "laptop" in stored
    hidden = secret[keys.SHOWN_CHARACTERS :]
    assert len(hidden) > 32
    assert not any(hidden[i : i + 6] in stored for i in range(len(hidden) - 5))
