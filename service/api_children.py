"""Several processes of the API on one port, as child processes of `litc api` and `litc serve`."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence

from jobs.settings import Settings
from service import http_server
from service.child_process import ChildProcess
from service.errors import ChildFailed
from worker.host.checkout import with_checkout

SECONDS_TO_START = 60.0
SECONDS_TO_STOP = http_server.SECONDS_TO_STOP + 5.0
SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus-client keeps the numbers of several processes in files of a folder."""


def metrics_folder() -> tempfile.TemporaryDirectory[str]:
    """Where the processes keep their numbers. It must be there until they have stopped."""
    return tempfile.TemporaryDirectory(prefix="lit-api-metrics-")


def api_processes(settings: Settings, reserved: socket.socket, metrics: str) -> list[ChildProcess]:
    """As many as the settings say, not yet started, for the address that `reserved` holds; `metrics` is a folder."""
    port = reserved.getsockname()[1]
    environment = with_checkout(os.environ) | settings.model_copy(update={"port": port}).as_environment()
    environment[SHARED_METRICS] = metrics
    return [_process(number, environment) for number in range(1, settings.api_workers + 1)]


def _process(number: int, environment: dict[str, str]) -> ChildProcess:
    command = [sys.executable, "-m", "service.api_process", "--number", str(number)]
    command += ["--stop-with-parent", str(os.getpid())]
    return ChildProcess(f"API process {number}", command, environment=environment, seconds_to_stop=SECONDS_TO_STOP)


def wait_until_listening(reserved: socket.socket, processes: Sequence[ChildProcess]) -> None:
    """Return once connections are taken. Raises ChildFailed if none is within SECONDS_TO_START, or all have ended."""
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and any(process.alive() for process in processes):
        with socket.socket(reserved.family, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(reserved.getsockname()) == 0:
                return
        time.sleep(0.05)
    raise ChildFailed("no process of the API has started; the log says why")
