"""Several actions at the same moment, and waits for what another connection does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import text

from jobs.database.connection import Database
from tests.worker.bench import wait_for

T = TypeVar("T")


def together(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Run each in a thread of its own, all let go at once; raises what the first of them raised."""
    gate = threading.Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        gate.wait(10)
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        futures = [pool.submit(run, action) for action in actions]
    return [future.result() for future in futures]


def wait_until_blocked(database: Database) -> None:
    """Until some transaction in this database waits for another's lock."""

    def blocked() -> object:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with database.engine.connect() as connection:
            return connection.scalar(text(query))

    wait_for(blocked, what="a blocked transaction")
