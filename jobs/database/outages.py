"""Which failures of the database pass by themselves."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout


def is_outage(failure: BaseException) -> bool:
    """Whether the same statement may succeed later, for example after a restart of the database."""
    if isinstance(failure, DBAPIError) and failure.connection_invalidated:
        return True
    return isinstance(failure, OperationalError | InterfaceError | PoolTimeout | DisconnectionError)
