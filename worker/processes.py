"""The two worker processes: one trains, one inspects."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

import structlog
from celery import Celery

from jobs.database import Database
from jobs.hints import Hints
from jobs.housekeeping import Housekeeper
from jobs.queues import DEVICE_QUEUES, INSPECT_QUEUE, INSPECT_TASK, WORK_TASK
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.app import make_app, run_worker
from worker.folder import Workplace
from worker.inspection import Inspector
from worker.presence import Presence
from worker.supervisor import SPEC_VERSIONS, Supervisor

log = structlog.get_logger()


def train(settings: Settings, devices: Sequence[str]) -> int:
    """The training worker; returns its exit code after SIGTERM or SIGINT."""
    database, app, worker_id = _start(settings)
    hints = Hints(app, settings.redis_url or "")
    workplace = Workplace(settings.data_dir / "work", worker_id)
    storage = open_storage(settings)
    supervisor = Supervisor(
        database,
        storage,
        settings,
        workplace,
        worker_id=worker_id,
        devices=devices,
        publish_hint=hints,
    )
    presence = Presence(database, worker_id, devices, SPEC_VERSIONS, lambda: supervisor.current_job)
    housekeeper = Housekeeper(database, hints, settings, storage)
    app.task(supervisor.work, name=WORK_TASK, shared=False)
    with ExitStack() as stack:
        stack.callback(hints.close)
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
    workplace = Workplace(settings.data_dir / "work", worker_id)
    inspector = Inspector(database, open_storage(settings), settings, workplace)
    app.task(inspector.hint, name=INSPECT_TASK, shared=False)
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
        sys.exit("the worker needs DATABASE_URL and REDIS_URL (`litc serve` brings its own database and broker)")
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return Database(settings.database_url), make_app(settings.redis_url), worker_id
