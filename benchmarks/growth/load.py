"""Fills a ledger with generated rows by COPY.

Triggers run for each row. Keys and indexes are put back when the rows are there, which takes a tenth of the time, and
checks all rows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, zip_longest

import psycopg
from psycopg import sql

from benchmarks.growth.rows import Rows, key, line, owner
from benchmarks.growth.sizes import OWNERS, WORKERS, Sizes
from jobs.database.connection import Database, connection_string
from lit_spec import SPEC_VERSION

JOBS_PER_COPY = 20_000
AT_ONCE = 50
"""Jobs whose epochs come in turns, as those of jobs that run at the same time: so they lie far apart in the table."""
COLUMNS = {
    "jobs": "id owner name tags state device spec_version request spec attempt max_attempts study_id trial trial_round "
    "worker_id worker_device lease_expires_at progress result error manifest stored_bytes event_seq version created_at "
    "started_at finished_at",
    "events": "job_id seq attempt type data created_at",
    "epoch_metrics": "job_id phase epoch values attempt",
    "job_files": "job_id finished_at kept removed_at",
    "job_uploads": "job_id upload_id",
    "idempotency_keys": "owner key request_hash job_id created_at",
    "audit_log": "id created_at owner key_id action kind object_id outcome request_id",
    "uploads": "id owner kind filename size received sha256 state inspection_state inspection created_at received_at "
    "completed_at",
    "studies": "id owner name tags kind state study_version request spec planned finished_jobs result version "
    "created_at finished_at",
    "webhooks": "id owner url tags enabled secret",
    "webhook_deliveries": "id webhook_id owner type data state due_at created_at",
    "workers": "id hostname devices spec_versions",
}


CONSTRAINTS = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f') AND conname !~ '^alembic'
AND conrelid <> 'owner_bytes'::regclass  -- a trigger needs it
ORDER BY contype = 'f'
"""
INDEXES = """
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""


def load(database: Database, sizes: Sizes, until: datetime, tell: Callable[[str], None] = lambda _: None) -> None:
    """Fill an empty, migrated ledger. `until`: when its newest job was made; not later than now."""
    rows = Rows(sizes, until)
    url = database.engine.url.render_as_string(hide_password=False)
    with psycopg.connect(connection_string(url)) as connection, _without_indexes(connection):
        _copy(connection, "uploads", map(rows.upload, range(sizes.uploads)))
        _copy(connection, "studies", map(rows.study_row, range(1 + sizes.jobs // 400)))
        _copy(connection, "workers", (_worker(number) for number in range(WORKERS)))
        _copy(connection, "webhooks", (_webhook(number) for number in range(OWNERS)))
        _copy(connection, "webhook_deliveries", map(rows.message, range(sizes.messages + sizes.waiting_messages)))
        for first in range(0, sizes.jobs, JOBS_PER_COPY):
            _load_jobs(connection, rows, range(first, min(first + JOBS_PER_COPY, sizes.jobs)))
            connection.commit()
            tell(f"{min(first + JOBS_PER_COPY, sizes.jobs):,} of {sizes.jobs:,} jobs")
    with psycopg.connect(connection_string(url), autocommit=True) as connection:
        tell("vacuum and analyze")
        connection.execute("VACUUM ANALYZE")


@contextmanager
def _without_indexes(connection: psycopg.Connection) -> Iterator[None]:
    constraints, indexes = connection.execute(CONSTRAINTS).fetchall(), connection.execute(INDEXES).fetchall()
    for table, name, _ in reversed(constraints):
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    connection.commit()
    yield
    connection.execute("SET maintenance_work_mem = '256MB'")
    for _, definition in indexes:
        connection.execute(definition)
    for table, name, definition in constraints:
        connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    connection.commit()


def _load_jobs(connection: psycopg.Connection, rows: Rows, numbers: range) -> None:
    _copy(connection, "jobs", map(rows.job, numbers))
    _copy(connection, "job_files", filter(None, map(rows.files, numbers)))
    _copy(connection, "job_uploads", map(rows.used, numbers))
    _copy(connection, "idempotency_keys", filter(None, map(rows.idempotency, numbers)))
    _copy(connection, "audit_log", map(rows.audit, numbers))
    _copy(connection, "events", _in_turns(rows.events, numbers))
    _copy(connection, "epoch_metrics", _in_turns(rows.metrics, numbers))


def _in_turns(lines_of: Callable[[int], Iterator[str]], numbers: range) -> Iterator[str]:
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        some = map(lines_of, range(first, min(first + AT_ONCE, numbers.stop)))
        yield from filter(None, chain.from_iterable(zip_longest(*some)))


def _copy(connection: psycopg.Connection, table: str, lines: Iterable[str]) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table].split()))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for each in lines:
            copy.write(each)


def _worker(number: int) -> str:
    versions = "{" + ",".join(map(str, range(1, SPEC_VERSION + 1))) + "}"
    return line((f"worker-{number:02}", "host", "{cpu,cuda}" if number % 2 else "{cpu}", versions))


def _webhook(number: int) -> str:
    return line((key("whk", number), owner(number), "https://example.com/hook", "{}", True, "whsec_" + "0" * 32))
