"""Tells the workers that there is work, through the broker."""

from __future__ import annotations

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from jobs.queues import broker_url, task_for

HINTS_IN_QUEUE = 100
"""With this many hints waiting nobody listens, and more would only fill the broker."""
SECONDS = 5

log = structlog.get_logger()


class Hints:
    """Publishes hints. A lost one is replaced by housekeeping, so a broker that is away is only logged."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
        self._app = Celery("lit", broker=broker_url(redis_url), set_as_current=False)
        self._app.conf.update(
            task_ignore_result=True,
            task_serializer="json",
            broker_transport_options={"socket_connect_timeout": SECONDS, "socket_timeout": SECONDS},
        )

    def __call__(self, queue: str) -> None:
        try:
            # A queue of Celery's is a Redis list of its name.
            if self._redis.llen(queue) < HINTS_IN_QUEUE:
                self._app.send_task(task_for(queue), queue=queue, retry=False)
        except (OperationalError, redis.RedisError, OSError) as failure:
            log.warning("hint not sent", queue=queue, error=str(failure))

    def ping(self) -> None:
        """Raises redis.RedisError when the broker doesn't answer."""
        self._redis.ping()

    def close(self) -> None:
        self._redis.close()
        self._app.close()
