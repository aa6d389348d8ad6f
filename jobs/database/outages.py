"""Which failures of the database pass by themselves, and what they mean."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

DISK_FULL = "53100"
READ_ONLY = "25006"
IDLE_TOO_LONG = "25P03"
MEANINGS = {
    DISK_FULL: "the database's disk is full",
    READ_ONLY: "the database can only be read",
    "53": "the database has no resources left",
    "58": "the database's disk has a fault",
}
"""By SQLSTATE, or by its class. https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def is_outage(failure: BaseException) -> bool:
    """Whether the same statement may succeed later, for example after a restart of the database."""
    if isinstance(failure, DBAPIError) and failure.connection_invalidated:
        return True
    if sqlstate(failure) in {READ_ONLY, IDLE_TOO_LONG}:
        return True
    return isinstance(failure, OperationalError | InterfaceError | PoolTimeout | DisconnectionError)


def is_down(failure: BaseException) -> bool:
    """Whether nobody can write to the database: it was not reached, is stopping or starting, or can only be read.

    The others of `is_outage` concern one statement or connection, such as a deadlock, a timeout or an idle transaction.
    """
    if state := sqlstate(failure):
        return state in {DISK_FULL, READ_ONLY} or state.startswith(("08", "57P0"))
    return is_outage(failure) and not isinstance(failure, PoolTimeout)


def is_disk_full(failure: BaseException) -> bool:
    """Whether the database could not write because its disk is full."""
    return sqlstate(failure) == DISK_FULL


def first_line(failure: BaseException) -> str:
    """What a log says of a failure. The lines that follow are the statement and its parameters."""
    return str(failure).splitlines()[0]


def explain(failure: BaseException) -> str:
    """What an outage is, without names of hosts and users."""
    state = sqlstate(failure)
    return MEANINGS.get(state) or MEANINGS.get(state[:2]) or "the database can't be reached"


def sqlstate(failure: BaseException) -> str:
    """PostgreSQL's code for a failure of SQLAlchemy; empty if the server gave none."""
    return getattr(getattr(failure, "orig", None), "sqlstate", None) or ""
