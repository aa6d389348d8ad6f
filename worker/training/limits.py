"""What one trainer may use of its machine, and which limit it hit.

The kernel limits processor time, the size of a file and, if asked to, the memory that is allocated. It can't limit the
memory that is used: RLIMIT_AS counts address space, of which CUDA maps more than any machine has. So the worker
measures memory and the job folder, and kills a trainer that has too much of either.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Self

from jobs.settings import GIB, Settings
from jobs.side_task import SideTask
from lit_spec import ErrorType, JobError
from lit_spec.trainer.folder import SIGNALLED
from worker.training.job_folder import store_bytes

LOOK_SECONDS = 0.2
UNLIMITED_LOOK_SECONDS = 5.0
"""Between two looks at memory that has no limit: they only serve the metrics."""
TIMES_DISK_LOOK = 10
"""After the folder has been measured, it is left alone this many times as long as that took."""
FREE_BYTES = 8 * GIB
TIMES_INPUTS = 16
"""Without a setting, a trainer may write these bytes and this many times its inputs: checkpoints hold the networks,
their best states and the optimizer's, exports are copies of the student, and Parquet files are unpacked."""
SECONDS_TO_END = 5
"""Between the signal for too much processor time and SIGKILL."""


@dataclass(frozen=True)
class TrainerLimits:
    """None: no limit."""

    memory_bytes: int | None
    """Of all the trainer's processes, without mapped files and without memory of a GPU."""
    data_bytes: int | None
    """RLIMIT_DATA: the private memory that a process may allocate, used or not."""
    cpu_seconds: int | None
    file_bytes: int
    disk_bytes: int
    """What the job folder may have."""

    @classmethod
    def of(cls, settings: Settings, folder: Path, device: str) -> Self:
        """The limits of a job whose inputs are in `folder`."""
        # Their sizes too, because some file systems count blocks late.
        inputs = sum(max(file.st_size, _allocated(file)) for file in _files(folder))
        usual = FREE_BYTES + TIMES_INPUTS * inputs
        return cls(
            memory_bytes=settings.trainer_memory_bytes,
            # CUDA allocates far more than it uses.
            data_bytes=settings.trainer_data_bytes if device == "cpu" else None,
            cpu_seconds=settings.trainer_cpu_seconds,
            # Decoded data sets are files too, whose sizes have a limit of their own.
            file_bytes=settings.trainer_file_bytes or max(usual, store_bytes(settings)),
            disk_bytes=inputs + (settings.trainer_disk_bytes or usual),
        )

    def apply(self, pid: int) -> None:
        """Set the kernel's limits. Processes that the trainer starts inherit them."""
        limits = {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_FSIZE: (self.file_bytes, self.file_bytes)}
        if self.data_bytes is not None:
            limits[resource.RLIMIT_DATA] = (self.data_bytes, self.data_bytes)
        if self.cpu_seconds is not None:
            limits[resource.RLIMIT_CPU] = (self.cpu_seconds, self.cpu_seconds + SECONDS_TO_END)
        with suppress(ProcessLookupError):
            for name, (soft, hard) in limits.items():
                # Only root may raise a hard limit, which the trainer has from its worker.
                most = resource.prlimit(pid, name)[1]
                own = hard if most == resource.RLIM_INFINITY else min(hard, most)
                resource.prlimit(pid, name, (min(soft, own), own))

    def error_of_exit(self, code: int) -> JobError | None:
        """The limit of the kernel that ended a trainer with this exit code."""
        if code in (-signal.SIGXCPU, SIGNALLED + signal.SIGXCPU):
            detail = f"the trainer used more than the {self.cpu_seconds} s of processor time that this worker allows"
            return _error(ErrorType.CPU_LIMIT, detail, "lower the epochs", "LIT_TRAINER_CPU_SECONDS", "schedule")
        if code in (-signal.SIGXFSZ, SIGNALLED + signal.SIGXFSZ):
            detail = f"the trainer wrote a file of more than the {self.file_bytes} bytes that this worker allows"
            return _error(ErrorType.FILE_SIZE_LIMIT, detail, "use a smaller teacher", "LIT_TRAINER_FILE_BYTES")
        return None

    def refined(self, error: JobError) -> JobError:
        """The trainer only knows that it got no memory."""
        if error.type is not ErrorType.OUT_OF_MEMORY or self.data_bytes is None:
            return error
        detail = f"the trainer allocated more than the {self.data_bytes} bytes of memory that this worker allows"
        return _memory_error(detail, "LIT_TRAINER_DATA_BYTES")


class LimitWatch:
    """A side task that kills a trainer which uses too much memory or disk; `error` says which."""

    def __init__(
        self,
        pid: int,
        kill: Callable[[], None],
        limits: TrainerLimits,
        folder: Path,
        on_memory: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_memory` is told the bytes that the trainer has in memory, every few seconds."""
        self.error: JobError | None = None
        self._pid = pid
        self._kill = kill
        self._limits = limits
        self._folder = folder
        self._on_memory = on_memory
        self._next_memory_look = 0.0
        self._next_disk_look = 0.0
        self._task = SideTask("trainer-limits", self._watch, longest_pause=1.0)

    def __enter__(self) -> Self:
        self._task.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._task.stop()

    def _watch(self, stopped: threading.Event) -> None:
        while self.error is None and not stopped.wait(LOOK_SECONDS):
            self.error = self._exceeded()
        if self.error is not None:
            self._kill()

    def _exceeded(self) -> JobError | None:
        limits = self._limits
        if self._memory_too_large():
            detail = f"the trainer used more than the {limits.memory_bytes} bytes of memory that this worker allows"
            return _memory_error(detail, "LIT_TRAINER_MEMORY_BYTES")
        if monotonic() < self._next_disk_look:
            return None
        began = monotonic()
        usage = disk_usage(self._folder)
        self._next_disk_look = monotonic() + TIMES_DISK_LOOK * (monotonic() - began)
        if usage > limits.disk_bytes:
            detail = f"the job folder grew beyond the {limits.disk_bytes} bytes that this worker allows"
            return _error(ErrorType.DISK_LIMIT, detail, "use a smaller teacher", "LIT_TRAINER_DISK_BYTES")
        return None

    def _memory_too_large(self) -> bool:
        limit = self._limits.memory_bytes
        if limit is None and monotonic() < self._next_memory_look:
            return False
        usage = memory_usage(self._pid)
        self._next_memory_look = monotonic() + UNLIMITED_LOOK_SECONDS
        self._on_memory(usage)
        return limit is not None and usage > limit


def memory_usage(session: int) -> int:
    """Bytes in memory or swapped out of all processes of a session, without mapped files, which the kernel can drop.

    The ranks that a launcher starts lead sessions of their own, which count too.
    """
    processes = list(_processes())
    sessions = {session, *(pid for pid in processes if _parent_of(pid) == session)}
    return sum(_memory_of(pid) for pid in processes if _session_of(pid) in sessions)


def disk_usage(folder: Path) -> int:
    """Bytes that the files in a folder take on its disk."""
    return sum(map(_allocated, _files(folder)))


def _allocated(file: os.stat_result) -> int:
    return file.st_blocks * 512


def _files(folder: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield Path(parent, name).lstat()


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _parent_of(pid: int) -> int | None:
    try:
        # After the name, which may have spaces and brackets.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _memory_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    kibibytes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.split()}
    return 1024 * sum(int(kibibytes.get(name, 0)) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _memory_error(detail: str, setting: str) -> JobError:
    return _error(ErrorType.MEMORY_LIMIT, detail, "lower schedule.batch_size", setting, "schedule.batch_size")


def _error(type: ErrorType, detail: str, remedy: str, setting: str, field: str | None = None) -> JobError:
    return JobError(type=type, detail=f"{detail}: {remedy}, or ask its operator to raise {setting}", field=field)
