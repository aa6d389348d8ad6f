"""The workers that `litc serve` runs beside the API, kept running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from jobs.settings import Settings

CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS_TO_STOP = 70.0
LOOK_SECONDS = 0.5
PAUSE_SECONDS = 5.0
"""Before a worker that ended by itself is started again."""

log = structlog.get_logger()


class WorkerChild:
    """`litc worker` as a child process while entered; started again should it end by itself."""

    def __init__(self, settings: Settings, *, inspects: bool) -> None:
        self._options = [] if inspects else ["--no-with-inspect"]
        self._environment = worker_environment(settings)
        self._stopped = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name="worker-child", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the worker give its job back, and wait for that."""
        self._stopped.set()
        self._thread.join()
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            log.warning("the worker did not end in time")
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lit_client.command", "worker", "--stop-with-parent", str(os.getpid())]
        command += self._options
        # A group of its own: Ctrl-C reaches this process alone, which then stops the worker in order.
        return subprocess.Popen(command, env=self._environment, process_group=0)

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            if (code := self._process.poll()) is not None:
                log.error("the worker ended by itself; starting it again", exit_code=code)
                if not self._stopped.wait(PAUSE_SECONDS):
                    self._process = self._start()


def worker_environment(settings: Settings) -> dict[str, str]:
    """This process's environment, with the addresses and folders that the API uses."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "DATABASE_URL": settings.database_url or "",
        "REDIS_URL": settings.redis_url or "",
        "LIT_DATA_DIR": str(settings.data_dir.resolve()),
        "LIT_STORAGE_DIR": str(settings.storage_root.resolve()),
    }
