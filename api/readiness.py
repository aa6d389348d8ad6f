"""Whether this process can serve: database, broker, storage and the folder for temporary files, with their disks."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from jobs import disks
from jobs.broker.wakeups import Wakeups
from jobs.database import outages
from jobs.database.connection import Database
from jobs.database.migrate import is_current
from jobs.storage.storage import Storage

FRESH_SECONDS = 2.0
ROWS_ON_DISK = 50_000
"""More than the least `work_mem` holds, so PostgreSQL writes them to its disk. They leave no trace."""


class NotReady(Exception):
    """Something is there, but not as this code needs it."""


class Readiness:
    """Looks at most once in FRESH_SECONDS, however many ask: anybody may ask, and a look writes to disks."""

    def __init__(self, database: Database, wakeups: Wakeups, storage: Storage) -> None:
        self._checks: dict[str, Callable[[], None]] = {
            "database": lambda: _check_database(database),
            "redis": wakeups.ping,
            "storage": storage.check,
            "temporary files": lambda: disks.probe(Path(tempfile.gettempdir())),
        }
        self._look = asyncio.Lock()
        self._faults: dict[str, str] = {}
        self._looked_at: float | None = None

    async def faults(self) -> list[str]:
        """What is missing, as of the last FRESH_SECONDS."""
        return [f"{name}: {reason}" for name, reason in (await self._faults_by_part()).items()]

    async def parts(self) -> dict[str, bool]:
        """Whether each part is there, as of the last FRESH_SECONDS."""
        faults = await self._faults_by_part()
        return {name: name not in faults for name in self._checks}

    async def _faults_by_part(self) -> dict[str, str]:
        async with self._look:
            if self._looked_at is None or time.monotonic() - self._looked_at > FRESH_SECONDS:
                self._faults = await run_in_threadpool(self._find_faults)
                self._looked_at = time.monotonic()
            return self._faults

    def _find_faults(self) -> dict[str, str]:
        found = {}
        for name, check in self._checks.items():
            try:
                check()
            except (SQLAlchemyError, redis.RedisError, OSError, NotReady) as failure:
                found[name] = _reason(failure)
        return found


def _check_database(database: Database) -> None:
    with database.engine.connect() as connection:
        if not is_current(connection):
            raise NotReady("the schema is not this version's: run `litc migrate`")
        if connection.scalar(text("SHOW transaction_read_only")) == "on":
            raise NotReady("it can only be read")
        _write_to_disk(connection)


def _write_to_disk(connection: Connection) -> None:
    connection.execute(text("SET LOCAL work_mem = '64kB'"))
    connection.execute(select(func.count()).select_from(func.generate_series(1, ROWS_ON_DISK).alias()))


def _reason(failure: Exception) -> str:
    """What is wrong. The failure's own text may name hosts, users and paths."""
    match failure:
        case NotReady():
            return str(failure)
        case OSError():
            return disks.reason(failure)
        case SQLAlchemyError():
            return outages.explain(failure)
        case _:
            return type(failure).__name__
