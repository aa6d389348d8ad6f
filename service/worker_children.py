"""The training, the inspecting and the tracking worker as child processes of `litc serve` and `litc worker`."""

from __future__ import annotations

import os
import sys

from jobs.settings import Settings
from jobs.tracking.trackers import Trackers
from service.child_process import ChildProcess
from service.errors import NotConfigured
from worker.host.checkout import with_checkout
from worker.host.devices import worker_devices
from worker.tracking.package import missing_package

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


def check_trackers(settings: Settings) -> None:
    """Raises NotConfigured when a tracking server is configured and its client is not installed."""
    if (missing := missing_package(settings)) is not None:
        raise NotConfigured(missing)


def training_worker(settings: Settings, *, number: int = 1) -> ChildProcess:
    name = "training worker" if number == 1 else f"training worker {number}"
    return _worker(name, settings, number)


def inspecting_worker(settings: Settings, *, number: int = 2) -> ChildProcess:
    return _worker("inspecting worker", settings, number, "--inspect")


def tracking_workers(settings: Settings) -> list[ChildProcess]:
    """One if a tracking server is configured, else none. It serves no metrics."""
    return [_worker("tracking worker", settings, 1, "--track")] if Trackers.of(settings) else []


def _worker(name: str, settings: Settings, number: int, *options: str) -> ChildProcess:
    """`number` counts the workers of one command from 1: each serves its metrics on a port of its own."""
    if settings.worker_metrics_port is not None:
        settings = settings.model_copy(update={"worker_metrics_port": settings.worker_metrics_port + number - 1})
    command = [sys.executable, "-m", "service.worker_process", "--stop-with-parent", str(os.getpid()), *options]
    environment = with_checkout(os.environ) | settings.as_environment()
    return ChildProcess(name, command, environment=environment, seconds_to_stop=SECONDS_TO_STOP)
