"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from collections.abc import Callable

import redis
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.http.context import Context, InContext
from api.http.problems import Problem
from jobs.database.migrate import is_current

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


@router.get("/healthz")
async def healthz() -> Health:
    """The process lives. Looks at nothing else."""
    return Health(status="alive")


@router.get("/readyz")
def readyz(context: InContext) -> Health:
    """Database, broker and storage are there; 503 says which is not."""
    checks: dict[str, Callable[[Context], None]] = {
        "database": _check_database,
        "redis": _check_redis,
        "storage": _check_storage,
    }
    missing = []
    for name, check in checks.items():
        try:
            check(context)
        except (SQLAlchemyError, redis.RedisError, OSError, _NotReady) as failure:
            missing.append(f"{name}: {_first_line(failure)}")
    if missing:
        raise Problem(503, "unavailable", "; ".join(missing), headers={"Retry-After": "2"})
    return Health(status="ready")


class _NotReady(Exception):
    """Something is there, but not as this code needs it."""


def _check_database(context: Context) -> None:
    with context.database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        if not is_current(connection):
            raise _NotReady("the schema is not this version's: run `litc migrate`")


def _check_redis(context: Context) -> None:
    context.wakeups.ping()


def _check_storage(context: Context) -> None:
    context.storage.check()


def _first_line(failure: Exception) -> str:
    # The rest may name hosts and users.
    return type(failure).__name__ if not isinstance(failure, _NotReady) else str(failure)
