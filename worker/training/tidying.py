"""Removes decoded data sets and cached teachers from this worker's disk: what is old, and what takes too much.

A process does it, because only trainers import lit_core.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import structlog

from jobs.settings import Settings
from jobs.side_task import SideTask
from worker.training.job_folder import data_store, reserve_bytes, store_bytes
from worker.training.launching import trainer_environment

TIDYING = (sys.executable, "-m", "lit_core.trainer.tidying")
PAUSE_SECONDS = 600.0
LONGEST_SECONDS = 60.0
"""Of one run. What it has not removed by then is left to the next."""

log = structlog.get_logger()


class Tidying:
    """A side task that tidies when it starts and every few minutes, whether the worker has a job or not."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """`folder` is one for temporary files."""
        self._settings, self._folder = settings, folder
        self._task = SideTask("tidying", self._keep)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(0)

    def _keep(self, stopped: threading.Event) -> None:
        tidy(self._settings, self._folder)
        while not stopped.wait(PAUSE_SECONDS):
            tidy(self._settings, self._folder)


def tidy(settings: Settings, folder: Path) -> None:
    """Raises nothing: what fails is logged, and the next time tries again."""
    try:
        options = {
            "data-store": data_store(settings),
            "data-store-bytes": store_bytes(settings),
            "data-store-days": settings.data_store_days,
            "teacher-cache": settings.teacher_cache,
            "teacher-cache-bytes": settings.teacher_cache_bytes,
            "disk-reserve-bytes": reserve_bytes(settings),
        }
        subprocess.run(
            [*TIDYING, *(f"--{name}={value}" for name, value in options.items())],
            cwd=folder,
            env=trainer_environment(folder, "cpu", 1),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LONGEST_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as failure:
        last = failure.stderr.strip().splitlines()[-1:]
        log.warning("decoded data and cached teachers not tidied", code=failure.returncode, error="".join(last))
    except (OSError, subprocess.TimeoutExpired) as failure:
        log.warning("decoded data and cached teachers not tidied", error=str(failure))
