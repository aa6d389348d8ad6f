"""The training and the inspecting worker as child processes of `litc serve` and `litc worker`."""

from __future__ import annotations

import os
import sys

from jobs.settings import Settings
from service.child_process import ChildProcess
from service.errors import NotConfigured
from worker.host.checkout import with_checkout
from worker.host.devices import worker_devices

SECONDS_TO_STOP = 60.0
"""A trainer gets 20 s for its checkpoint; the rest is for storage and ledger."""


def check_devices(settings: Settings) -> None:
    """Check that devices which are given by name can be used, before several processes complain.

    Raises NotConfigured.
    """
    if settings.worker_devices is not None:
        try:
            worker_devices(settings.worker_devices)
        except ValueError as wrong:
            raise NotConfigured(str(wrong)) from wrong


def training_worker(settings: Settings, *, number: int = 1) -> ChildProcess:
    name = "training worker" if number == 1 else f"training worker {number}"
    return _worker(name, settings, number)


def inspecting_worker(settings: Settings, *, number: int = 2) -> ChildProcess:
    return _worker("inspecting worker", settings, number, "--inspect")


def _worker(name: str, settings: Settings, number: int, *options: str) -> ChildProcess:
    """`number` counts the workers of one command from 1: each serves its metrics on a port of its own."""
    if settings.worker_metrics_port is not None:
        settings = settings.model_copy(update={"worker_metrics_port": settings.worker_metrics_port + number - 1})
    command = [sys.executable, "-m", "service.worker_process", "--stop-with-parent", str(os.getpid()), *options]
    environment = with_checkout(os.environ) | settings.as_environment()
    return ChildProcess(name, command, environment=environment, seconds_to_stop=SECONDS_TO_STOP)
