"""The tracking process: from time to time it looks in the ledger which runs are due."""

from __future__ import annotations

import time
from contextlib import ExitStack

import structlog

from jobs.settings import Settings
from jobs.side_task import SideTask
from worker.host.startup import open_host, refuse_to_start
from worker.host.stop_signals import StopSignals
from worker.tracking.connection import unsupported_variable
from worker.tracking.follower import Follower
from worker.tracking.package import missing_package

SECONDS_TO_STOP = 10.0
"""A step that takes longer is cut off; it is repeated later."""

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Keep runs up to date until SIGTERM or SIGINT; returns the exit code."""
    if (wrong := missing_package(settings) or unsupported_variable()) is not None:
        refuse_to_start(wrong)
    host = open_host(settings)
    follower = Follower(host.database, host.storage, settings, host.work_folder)
    tasks = [SideTask(f"tracking {number}", follower.follow) for number in range(follower.threads)]
    signals = StopSignals()
    with ExitStack() as stack:
        stack.callback(host.work_folder.close)
        stack.callback(_stop, tasks)
        for task in tasks:
            task.start()
        log.info("tracking worker starts", worker=host.worker_id)
        signals.wait()
    return 0


def _stop(tasks: list[SideTask]) -> None:
    end = time.monotonic() + SECONDS_TO_STOP
    for task in tasks:
        task.ask_to_stop()
    for task in tasks:
        task.stop(max(end - time.monotonic(), 0.0))
