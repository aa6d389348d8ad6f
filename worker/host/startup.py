"""What every worker process does first: connect to the ledger, then find and check the storage.

If that is impossible, the process ends with a sentence that says why.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import structlog

from jobs.database.connection import Database
from jobs.database.migrate import schema_fault
from jobs.database.outages import first_line, is_outage
from jobs.settings import Settings
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.opening import open_storage
from jobs.storage.storage import Storage
from jobs.tracing import Tracing, TracingNotConfigured, open_tracing
from worker.host.work_folder import WorkFolder

LEDGER_SECONDS = 2.0
"""Pause between two attempts to reach the ledger."""

log = structlog.get_logger()


@dataclass(frozen=True)
class WorkerHost:
    """What the training and the inspecting process both use."""

    worker_id: str
    database: Database
    storage: Storage
    marker: str
    """Storage key of the marker, which shows that the storage is the ledger's."""
    work_folder: WorkFolder


def exit_on_sigterm() -> None:
    """End at once on SIGTERM. For the start of a process, when it has no job that it would have to give back."""
    signal.signal(signal.SIGTERM, _exit)


def refuse_to_start(sentence: str) -> NoReturn:
    """End with a sentence, and with an exit code that says that another start would end in the same way."""
    sys.stderr.write(f"{sentence}\n")
    sys.exit(os.EX_CONFIG)


def _exit(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def open_host(settings: Settings) -> WorkerHost:
    """Connect to the ledger and check the storage. Waits as long as the ledger can't be reached."""
    if not settings.database_url:
        refuse_to_start("the worker needs DATABASE_URL: set it to the URL of the ledger's PostgreSQL database")
    database = Database(settings.database_url)
    marker = _read_marker(database)
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    storage = _open_storage(settings, marker)
    return WorkerHost(worker_id, database, storage, marker, _make_work_folder(settings, worker_id))


@contextmanager
def traced(service: str) -> Iterator[Tracing]:
    """Tracing as the environment says; at the end the last spans are sent."""
    try:
        tracing = open_tracing(service)
    except TracingNotConfigured as wrong:
        refuse_to_start(str(wrong))
    try:
        yield tracing
    finally:
        tracing.close()


def _read_marker(database: Database) -> str:
    while True:
        try:
            with database.session() as session:
                # Before anything is read: what a worker of another version writes, nobody may be able to read.
                if (fault := schema_fault(session.connection())) is not None:
                    refuse_to_start(fault)
                return marker_key(session)
        except Exception as failure:
            if not is_outage(failure):
                raise
            log.warning("ledger out of reach; trying again", error=first_line(failure))
        time.sleep(LEDGER_SECONDS)


def _open_storage(settings: Settings, marker: str) -> Storage:
    try:
        storage = open_storage(settings)
    except OSError as failure:
        refuse_to_start(f"the storage {settings.storage_place} can't be used: {failure}")
    if (fault := storage_fault(storage, marker)) is not None:
        refuse_to_start(f"the storage {settings.storage_place} can't be used: {fault}")
    return storage


def _make_work_folder(settings: Settings, worker_id: str) -> WorkFolder:
    root = settings.data_dir / "work"
    try:
        return WorkFolder(root, worker_id)
    except OSError as failure:
        refuse_to_start(f"the folder {root} for jobs can't be used: {failure}")
