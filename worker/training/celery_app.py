"""The Celery app. Its messages are wake-ups: they say that there is work, and the ledger decides which job it is.

So messages are acknowledged before the work starts and carry nothing, there is no result backend, and only JSON is
read. `worker_disable_prefetch` (for Redis brokers and a pool whose size Celery knows) leaves further wake-ups in the
queue while a job runs, where other workers find them.

The pool is `threads` with one thread. With `solo` the task would run inside Celery's event loop, and for hours
nobody would acknowledge the wake-up or serve the broker connection. With `threads` the main thread keeps acknowledging,
and answers SIGTERM at once: Celery sends `worker_shutting_down`, on which the supervisor drains its trainer, and
waits for the task, which then ends, before the process exits with 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from jobs.broker.queues import broker_url


def make_app(redis_url: str) -> Celery:
    app = Celery("lit", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            # For messages that are sent. The consumer connects again for as long as it takes.
            "max_retries": 0,
        },
        result_backend=None,
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_concurrency=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    return app


def run_worker(app: Celery, name: str, queues: Sequence[str], on_shutdown: Callable[[], None]) -> int:
    """Consume `queues` in this process until SIGTERM or SIGINT; `on_shutdown` is called in the signal's handler."""

    def shutting_down(**_: Any) -> None:
        on_shutdown()

    # Celery warns about root because of pickles. Only JSON is read here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    signals.setup_logging.connect(_keep_logging, weak=False)
    worker = app.Worker(
        hostname=name,
        queues=list(queues),
        pool_cls="threads",
        concurrency=1,
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _keep_logging(**_: Any) -> None:
    """Connected to `setup_logging`, so that Celery does not change the logging."""
