"""Messages to the training workers that say that there is work."""

from __future__ import annotations

from typing import Protocol

import redis
import structlog

from jobs.broker.queues import WORK_TASK

MAX_WAKEUPS_IN_QUEUE = 100
"""With so many wake-ups in a queue nobody reads it, and more would only fill the broker."""
SECONDS = 5

log = structlog.get_logger()


class SendWakeup(Protocol):
    """Puts a wake-up into a queue of the broker. Never raises: a lost wake-up is replaced by housekeeping."""

    def __call__(self, queue: str) -> None: ...


class Sender(Protocol):
    """The part of a Celery app that is needed here, so that the ledger does not import Celery."""

    def send_task(self, name: str, *, queue: str, retry: bool) -> object: ...


class Wakeups:
    """Sends wake-ups through `sender`. A broker that can't be reached is only logged."""

    def __init__(self, sender: Sender, redis_url: str) -> None:
        self._sender = sender
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)

    def __call__(self, queue: str) -> None:
        self.send(queue, 1)

    def send(self, queue: str, count: int) -> bool:
        """Send so many wake-ups, or as many as there is room for. Whether there is room for more."""
        try:
            # A queue of Celery is a Redis list with the same name.
            room = MAX_WAKEUPS_IN_QUEUE - int(self._redis.llen(queue))
            for _ in range(min(count, room)):
                self._sender.send_task(WORK_TASK, queue=queue, retry=False)
        except Exception as failure:  # noqa: BLE001 - whatever the sender raises, the wake-up is lost and will be replaced
            log.warning("wake-up not sent", queue=queue, error=repr(failure))
            return False
        return room > count

    def ping(self) -> None:
        """Raises redis.RedisError if the broker does not answer."""
        self._redis.ping()

    def close(self) -> None:
        self._redis.close()
