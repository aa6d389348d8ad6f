"""Worker processes and the trainers that they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil

from jobs.housekeeping import Housekeeper
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_spec import Inspection
from tests.worker.bench import Bench, wait_for
from worker.training.launching import TRAINER

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 6
TEACHER = ROOT / "examples/digits/teacher.safetensors"


@cache
def _inspection() -> Inspection:
    return inspect_teacher(read_teacher(TEACHER))


class Machines:
    """The worker processes of one test, with the housekeeping of an API process beside them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.workers: list[subprocess.Popen[bytes]] = []
        self._housekeeper = Housekeeper(bench.database, self._wake, bench.settings, bench.storage)
        self._housekeeper.start()

    def teacher(self) -> str:
        """An upload of the example's teacher, inspected as a worker inspects it."""
        return self.bench.teacher(TEACHER.read_bytes(), _inspection())

    def start_worker(self, *, warm: bool = True) -> subprocess.Popen[bytes]:
        """With `warm`, from a template, as by default. It costs more than one job that is cancelled early."""
        settings = self.bench.settings
        environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url or "",
            "REDIS_URL": settings.redis_url or "",
            "LIT_DATA_DIR": str(settings.data_dir),
            "LIT_STORAGE_DIR": str(settings.storage_root),
            "LIT_LEASE_SECONDS": str(LEASE_SECONDS),
            "LIT_HOUSEKEEPING_SECONDS": "0.5",
            "LIT_THREADS": "1",
            "LIT_WARM_TRAINER": str(warm),
        }
        command = [sys.executable, "-m", "service.worker_process", "--devices", "cpu"]
        self.workers.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        return self.workers[-1]

    def trainers(self) -> dict[int, int]:
        """The process id of each live trainer of these workers, with that of its worker."""
        found = {}
        for worker in self.workers:
            if worker.poll() is not None:
                continue
            for child in psutil.Process(worker.pid).children():
                try:
                    if child.status() != psutil.STATUS_ZOMBIE and _is_trainer(child):
                        found[child.pid] = worker.pid
                except psutil.NoSuchProcess:
                    continue
        return found

    def trainer_of(self, worker: subprocess.Popen[bytes]) -> int:
        """Waits for the worker's trainer; its process id."""
        wait_for(lambda: worker.pid in self.trainers().values(), 30, "a trainer")
        return next(trainer for trainer, parent in self.trainers().items() if parent == worker.pid)

    def stop_housekeeping(self) -> None:
        """From now on the workers alone keep house."""
        self._housekeeper.stop()

    def stop(self) -> None:
        self._housekeeper.stop()
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(40)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def _wake(self, queue: str) -> None:
        """The workers' own housekeepers send wakeups; this one only reaps."""


def _is_trainer(process: psutil.Process) -> bool:
    """Forked by a template, or executed."""
    return process.name() == "lit-trainer" or tuple(process.cmdline()) == TRAINER


def wait_for_epochs(bench: Bench, job_id: str, count: int, seconds: float = 60) -> None:
    """Wait until the ledger has heard of so many epochs."""
    end = time.monotonic() + seconds
    while len(bench.events(job_id, "epoch")) < count:
        assert time.monotonic() < end, f"not {count} epochs within {seconds} s"
        time.sleep(0.02)
