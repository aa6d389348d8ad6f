"""The tracking process: from time to time it looks in the ledger which runs are due."""

from __future__ import annotations

from contextlib import ExitStack

import structlog

from jobs.settings import Settings
from jobs.side_task import SideTask
from worker.host.startup import open_host, refuse_to_start
from worker.host.stop_signals import StopSignals
from worker.tracking.follower import Follower
from worker.tracking.mlflow_server import prepare_client
from worker.tracking.package import missing_package

SECONDS_TO_STOP = 10.0
"""A step that takes longer is cut off; it is repeated later."""

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Keep runs up to date until SIGTERM or SIGINT; returns the exit code."""
    if (missing := missing_package(settings)) is not None:
        refuse_to_start(missing)
    prepare_client()
    host = open_host(settings)
    follower = Follower(host.database, host.storage, settings, host.work_folder)
    task = SideTask("tracking", follower.follow)
    signals = StopSignals()
    with ExitStack() as stack:
        stack.callback(host.work_folder.close)
        stack.callback(task.stop, SECONDS_TO_STOP)
        task.start()
        log.info("tracking worker starts", worker=host.worker_id)
        signals.wait()
    return 0
