"""The inspecting process: woken by the ledger's notifications, it takes inspections from the ledger."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack

import structlog

from jobs.database.notifications import TopicListener
from jobs.ledger.uploads import INSPECTIONS_TOPIC
from jobs.settings import Settings
from worker.host.startup import open_host
from worker.inspecting.inspector import Inspector

LOOK_SECONDS = 0.2
"""How often the process looks whether it shall stop."""

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Inspect until SIGTERM or SIGINT; returns the exit code."""
    host = open_host(settings)
    inspector = Inspector(host.database, host.storage, settings, host.work_folder, marker=host.marker)
    listener = TopicListener(settings.database_url or "", INSPECTIONS_TOPIC, inspector.wake)
    # Before anything is to be stopped: until here SIGTERM ends the process at once.
    signals = _collect_signals()
    with ExitStack() as stack:
        stack.callback(host.work_folder.close)
        stack.callback(inspector.stop)
        stack.callback(listener.stop)
        inspector.start()
        listener.start()
        log.info("inspecting worker starts", worker=host.worker_id)
        while not signals:
            time.sleep(LOOK_SECONDS)
    return 0


def _collect_signals() -> list[int]:
    """A list to which every SIGTERM and SIGINT is added from now on."""
    # No lock may be taken in a handler: a second signal could come while it is held, and wait for ever.
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: received.append(number))
    return received
