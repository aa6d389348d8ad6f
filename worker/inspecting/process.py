"""The inspecting process: woken by the ledger's notifications, it takes inspections from the ledger."""

from __future__ import annotations

from contextlib import ExitStack

import structlog

from jobs.database.notifications import TopicListener
from jobs.ledger.uploads import INSPECTIONS_TOPIC
from jobs.settings import Settings
from lit_spec.trainer.template import Program
from worker.host.metrics import serve_metrics
from worker.host.startup import open_host
from worker.host.stop_signals import StopSignals
from worker.host.trainer_template import opened_template
from worker.inspecting.inspector import Inspector, execute_bound, inspection_environment
from worker.inspecting.metrics import InspectionMetrics

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Inspect until SIGTERM or SIGINT; returns the exit code."""
    metrics = InspectionMetrics()
    with serve_metrics(settings, metrics.registry):
        _run(settings, metrics)
    return 0


def _run(settings: Settings, metrics: InspectionMetrics) -> None:
    host = open_host(settings)
    template = opened_template(settings, inspection_environment(host.work_folder.path), Program.INSPECTION)
    start = execute_bound if template is None else template.fork
    inspector = Inspector(
        host.database, host.storage, settings, host.work_folder, marker=host.marker, start=start, metrics=metrics
    )
    listener = TopicListener(settings.database_url or "", INSPECTIONS_TOPIC, inspector.wake)
    # Before anything is to be stopped: until here SIGTERM ends the process at once.
    signals = StopSignals()
    with ExitStack() as stack:
        stack.callback(host.work_folder.close)
        if template is not None:
            stack.callback(template.stop)
        stack.callback(listener.stop)
        stack.callback(inspector.stop)  # first, because it takes longest
        inspector.start()
        listener.start()
        metrics.ready.set(1)
        log.info("inspecting worker starts", worker=host.worker_id)
        signals.wait()
