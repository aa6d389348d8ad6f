"""Names of the broker's queues and of its one task. A message says that there is work; it names no job."""

from __future__ import annotations

DEVICE_QUEUES = {"cpu": "lit.cpu", "cuda": "lit.cuda"}

WORK_TASK = "lit.work"


def queues_for(device: str) -> list[str]:
    """The queues whose workers can run a job for `device` (auto, cpu or cuda)."""
    return list(DEVICE_QUEUES.values()) if device == "auto" else [DEVICE_QUEUES[device]]


def broker_url(redis_url: str) -> str:
    """The URL in the spelling of Celery, which differs from the Redis client's for a Unix socket."""
    scheme = "unix://"
    return f"redis+socket://{redis_url.removeprefix(scheme)}" if redis_url.startswith(scheme) else redis_url
