"""The API's way to the broker: it sends wakeups and consumes nothing."""

from __future__ import annotations

from celery import Celery

from jobs.broker.queues import broker_url
from jobs.broker.wakeups import SECONDS


def make_app(redis_url: str) -> Celery:
    app = Celery("lit", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        # Nobody waits while a broker that is away is tried again: housekeeping sends the wake-up later.
        broker_transport_options={"socket_connect_timeout": SECONDS, "socket_timeout": SECONDS, "max_retries": 0},
    )
    return app
