"""The two worker processes: one trains, one inspects."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

import structlog
from celery import Celery
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import ProgrammingError

from jobs.broker.queues import DEVICE_QUEUES, INSPECT_QUEUE, INSPECT_TASK, WORK_TASK
from jobs.broker.wakeups import Wakeups
from jobs.database.connection import Database
from jobs.housekeeping import Housekeeper
from jobs.settings import Settings
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.storage import Storage, open_storage
from worker.host.registration import Presence
from worker.inspecting.inspector import Inspector
from worker.training.celery_app import make_app, run_worker
from worker.training.job_folder import Workplace
from worker.training.lease import is_outage
from worker.training.supervisor import SPEC_VERSIONS, Supervisor

LEDGER_SECONDS = 2.0
"""Between two questions to a ledger that is out of reach."""

log = structlog.get_logger()


def train(settings: Settings, devices: Sequence[str]) -> int:
    """The training worker; returns its exit code after SIGTERM or SIGINT."""
    database, app, worker_id = _start(settings)
    storage, marker = _find_storage(settings, database)
    wakeups = Wakeups(app, settings.redis_url or "")
    workplace = _make_workplace(settings, worker_id)
    supervisor = Supervisor(
        database,
        storage,
        settings,
        workplace,
        marker=marker,
        worker_id=worker_id,
        devices=devices,
        send_wakeup=wakeups,
    )
    presence = Presence(
        database, worker_id, devices, SPEC_VERSIONS, lambda: supervisor.current_job, lambda: supervisor.resting
    )
    housekeeper = Housekeeper(database, wakeups, settings, storage)
    app.task(supervisor.work, name=WORK_TASK, shared=False)
    with ExitStack() as stack:
        stack.callback(wakeups.close)
        stack.callback(workplace.close)
        stack.callback(presence.stop)
        presence.start()
        stack.callback(housekeeper.stop)
        housekeeper.start()
        log.info("training worker starts", worker=worker_id, devices=list(devices))
        queues = [DEVICE_QUEUES[device] for device in devices]
        return run_worker(app, worker_id, queues, supervisor.drain)


def inspect(settings: Settings) -> int:
    """The inspecting worker; returns its exit code after SIGTERM or SIGINT."""
    database, app, worker_id = _start(settings)
    storage, marker = _find_storage(settings, database)
    workplace = _make_workplace(settings, worker_id)
    inspector = Inspector(database, storage, settings, workplace, marker=marker)
    app.task(inspector.wake, name=INSPECT_TASK, shared=False)
    with ExitStack() as stack:
        stack.callback(workplace.close)
        stack.callback(inspector.stop)
        inspector.start()
        log.info("inspecting worker starts", worker=worker_id)
        return run_worker(app, worker_id, [INSPECT_QUEUE], inspector.drain)


def exit_on_sigterm() -> None:
    """Until Celery takes SIGTERM over, nothing runs that would have to be drained."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def _start(settings: Settings) -> tuple[Database, Celery, str]:
    if not settings.database_url or not settings.redis_url:
        sys.exit("the worker needs DATABASE_URL and REDIS_URL")
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return Database(settings.database_url), make_app(settings.redis_url), worker_id


def _find_storage(settings: Settings, database: Database) -> tuple[Storage, str]:
    """The storage and the key of its marker. Ends the process with a sentence where it is not the ledger's."""
    marker = _ask_for_marker(database)
    try:
        storage = open_storage(settings)
    except OSError as failure:
        sys.exit(f"the storage {settings.storage_root} can't be used: {failure}")
    if (wrong := storage_fault(storage, marker)) is not None:
        sys.exit(f"the storage {settings.storage_root} can't be used: {wrong}")
    return storage, marker


def _ask_for_marker(database: Database) -> str:
    """Again and again while the ledger is out of reach."""
    while True:
        try:
            with database.session() as session:
                return marker_key(session)
        except ProgrammingError as failure:
            if not isinstance(failure.orig, UndefinedTable):
                raise
            sys.exit("the database's schema is not this version's: run `litc migrate`")
        except Exception as failure:
            if not is_outage(failure):
                raise
            log.warning("ledger out of reach; trying again", error=str(failure).splitlines()[0])
        time.sleep(LEDGER_SECONDS)


def _make_workplace(settings: Settings, worker_id: str) -> Workplace:
    folder = settings.data_dir / "work"
    try:
        return Workplace(folder, worker_id)
    except OSError as failure:
        sys.exit(f"the folder {folder} for jobs can't be used: {failure}")
