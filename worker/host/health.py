"""`python -m worker.host.health`: whether a training worker of this host has renewed its registration recently.

It asks the ledger and not the process table, so that a worker that hangs or is cut off counts as unhealthy. In a
container the host name is the worker's own. On a machine with several workers, one live worker is enough.
"""

from __future__ import annotations

import socket
import sys

from sqlalchemy.exc import DBAPIError

from jobs.database.connection import Database
from jobs.ledger import workers
from jobs.settings import Settings


def health_fault(settings: Settings, hostname: str) -> str | None:
    """What is wrong, as a sentence; None if nothing is wrong."""
    if settings.database_url is None:
        return "DATABASE_URL is not set: set it to the address of the ledger's PostgreSQL database."
    database = Database(settings.database_url, pool_size=1)
    try:
        with database.session() as session:
            hosts = {worker.hostname for worker in workers.live(session)}
    except DBAPIError as failure:
        return f"The ledger can't be reached: {str(failure.orig).strip().splitlines()[0]}"
    finally:
        database.close()
    if hostname in hosts:
        return None
    return f"The ledger has seen no training worker of {hostname} for {workers.LIVE_SECONDS:g} s."


if __name__ == "__main__":
    sys.exit(health_fault(Settings(), socket.gethostname()))
