"""Outages of the database, as one process sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import text

from jobs.database.connection import Database


@dataclass(frozen=True)
class CutDatabase:
    """The database of `whole`, through a role of its own that can be locked out."""

    whole: Database
    database: Database
    role: str

    def cut(self) -> None:
        """Cut all connections. New ones are let in."""
        self._execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")

    def lock_out(self) -> None:
        self._execute(f"ALTER ROLE {self.role} NOLOGIN")
        self.cut()

    def let_in(self) -> None:
        self._execute(f"ALTER ROLE {self.role} LOGIN")

    def _execute(self, statement: str) -> None:
        with self.whole.session() as session:
            session.execute(text(statement))


@contextmanager
def cut_off(whole: Database, role: str) -> Iterator[CutDatabase]:
    with whole.session() as session:
        session.execute(text(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'cut'"))
    made = Database(whole.engine.url.set(username=role, password="cut").render_as_string(False))
    try:
        yield CutDatabase(whole, made, role)
    finally:
        made.close()
        with whole.session() as session:
            session.execute(text(f"DROP ROLE {role}"))
