"""The training process: a Celery consumer that is woken by messages and takes its jobs from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import structlog

from jobs.broker.queues import DEVICE_QUEUES, WORK_TASK
from jobs.broker.wakeups import Wakeups
from jobs.housekeeping import Housekeeper
from jobs.settings import Settings
from jobs.tracing import Tracing
from lit_spec.requests.upgrades import READABLE_SPEC_VERSIONS
from lit_spec.trainer.template import Program
from worker.host.children import execute
from worker.host.devices import processes_by_device
from worker.host.metrics import serve_metrics
from worker.host.registration import Registration
from worker.host.startup import open_host, refuse_to_start, traced
from worker.host.trainer_template import opened_template
from worker.training.celery_app import make_app, run_worker
from worker.training.job_folder import trainer_machine
from worker.training.launching import trainer_environment
from worker.training.metrics import TrainingMetrics
from worker.training.supervisor import Supervisor
from worker.training.tidying import Tidying

log = structlog.get_logger()


def run(settings: Settings, devices: Sequence[str]) -> int:
    """Train until SIGTERM or SIGINT; returns the exit code."""
    if not settings.redis_url:
        refuse_to_start("the training worker needs REDIS_URL: set it to the URL of the broker")
    metrics = TrainingMetrics()
    with serve_metrics(settings, metrics.registry), traced("lit-worker") as tracing:
        return _run(settings, settings.redis_url, devices, metrics, tracing)


def _run(settings: Settings, redis_url: str, devices: Sequence[str], metrics: TrainingMetrics, tracing: Tracing) -> int:
    host = open_host(settings)
    machine = trainer_machine(settings)
    processes = processes_by_device(devices)
    template = opened_template(
        settings, trainer_environment(host.work_folder.path, None, machine.threads), Program.TRAINER
    )
    app = make_app(redis_url)
    wakeups = Wakeups(app, redis_url)
    supervisor = Supervisor(
        host.database,
        host.storage,
        settings,
        host.work_folder,
        marker=host.marker,
        worker_id=host.worker_id,
        devices=devices,
        processes=processes,
        start=execute if template is None else template.fork,
        send_wakeup=wakeups,
        metrics=metrics,
        tracing=tracing,
    )
    registration = Registration(
        host.database,
        host.worker_id,
        devices,
        READABLE_SPEC_VERSIONS,
        processes,
        current_job=lambda: supervisor.current_job,
        paused=lambda: supervisor.paused,
    )
    tidying = Tidying(settings, host.work_folder.path)
    housekeeper = Housekeeper(host.database, wakeups, settings, host.storage)
    app.task(supervisor.work, name=WORK_TASK, shared=False)
    with ExitStack() as stack:
        stack.callback(wakeups.close)
        stack.callback(host.work_folder.close)
        if template is not None:
            stack.callback(template.stop)
        stack.callback(registration.stop)
        registration.start()
        stack.callback(housekeeper.stop)
        housekeeper.start()
        stack.callback(tidying.stop)
        tidying.start()
        metrics.ready.set(1)
        log.info("training worker starts", worker=host.worker_id, devices=list(devices))
        queues = [DEVICE_QUEUES[device] for device in devices]
        return run_worker(app, host.worker_id, queues, supervisor.drain)
