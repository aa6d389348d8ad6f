"""The process minder: starts child processes, restarts those that end by themselves, and stops all of them in order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import structlog

from service.errors import ChildFailed

log = structlog.get_logger()


class Child(Protocol):
    """A long-running child process of the service. `start` may be called again after the process has ended."""

    @property
    def name(self) -> str: ...

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process that ended last; None while it runs, or if the code is not known."""

    def start(self) -> None:
        """Start the process and wait until it can be used. Raises ChildFailed."""

    def alive(self) -> bool:
        """Whether the process runs. Must be fast, because it is called twice a second."""

    def stop(self) -> bool:
        """Stop the process if it runs, and wait for its end. False if it had to be killed or ended with an error."""


@dataclass(frozen=True)
class RestartPolicy:
    """When a child process is started again, and when the minder gives up."""

    first_pause: float = 1.0
    """Seconds before the first restart; the pause doubles with each further failure."""
    max_failures: int = 5
    """The minder gives up after this many failures in a row."""
    steady_seconds: float = 60.0
    """After a child process has run for this long, its earlier failures no longer count."""
    look_seconds: float = 0.5

    def pause(self, failures: int) -> float:
        return float(self.first_pause * 2 ** (failures - 1))


class _Watched:
    """One child process with its failures and its next start."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.failures = 0
        self.started_at = time.monotonic()
        self.restart_at: float | None = None
        """None while the process runs."""
        self.restarted = False


class ProcessMinder:
    """A context manager that keeps child processes running.

    On exit it stops them in the reverse order of `start`. Processes that one call started are stopped at the same time.
    If a child process fails `max_failures` times in a row, the minder gives it up: it calls `on_failure` from its
    thread, and raises ChildFailed on exit. A child process that ends with os.EX_CONFIG instead of starting for the
    first time has said why another start would end in the same way, and is given up at once.
    """

    def __init__(
        self, on_failure: Callable[[], None] = lambda: None, *, policy: RestartPolicy = RestartPolicy()
    ) -> None:
        self._on_failure = on_failure
        self._policy = policy
        self._groups: list[tuple[Child, ...]] = []
        self._watched: list[_Watched] = []
        self._stopping = threading.Event()
        # The kernel sends the parent death signal when the thread that started a process ends, not its process.
        # So the thread that restarts processes also stops them.
        self._thread = threading.Thread(target=self._run, name="process-minder", daemon=True)
        self.failure: ChildFailed | None = None
        self.stopped_cleanly = True
        """False when a process had to be killed, or ended with an error, while everything was being stopped."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def start(self, *children: Child) -> None:
        """Start the children and keep them running. Raises ChildFailed when the first start of one fails."""
        # Before the start, so that a child whose start is interrupted is stopped too.
        self._groups.append(children)
        for child in children:
            child.start()
            self._watched.append(_Watched(child))

    def _run(self) -> None:
        while not self._stopping.wait(self._policy.look_seconds):
            for watched in list(self._watched):
                if self._stopping.is_set():
                    break
                try:
                    self._look_after(watched)
                except Exception as failure:  # noqa: BLE001 - after any failure, another start may succeed
                    self._note_failure(watched, str(failure) or repr(failure))
        for group in reversed(self._groups):
            self._stop(group)

    def _look_after(self, watched: _Watched) -> None:
        child = watched.child
        if watched.restart_at is None:
            if not child.alive():
                if child.exit_code == os.EX_CONFIG and not watched.restarted:
                    self._give_up(watched, f"{child.name} can't start, so everything was stopped; it has said why")
                    return
                if time.monotonic() - watched.started_at >= self._policy.steady_seconds:
                    watched.failures = 0
                code = "" if child.exit_code is None else f" with exit code {child.exit_code}"
                self._note_failure(watched, f"it ended by itself{code}")
        elif time.monotonic() >= watched.restart_at:
            child.start()
            watched.restarted = True
            watched.restart_at = None
            watched.started_at = time.monotonic()
            log.info("child process started again", child=child.name)

    def _note_failure(self, watched: _Watched, reason: str) -> None:
        child = watched.child
        watched.failures += 1
        if watched.failures >= self._policy.max_failures:
            times = f"{watched.failures} times in a row"
            self._give_up(watched, f"{child.name} failed {times}, so everything was stopped. The last time: {reason}")
            return
        pause = self._policy.pause(watched.failures)
        watched.restart_at = time.monotonic() + pause
        log.error("child process failed", child=child.name, reason=reason, restart_in_seconds=pause)

    def _give_up(self, watched: _Watched, sentence: str) -> None:
        self._watched.remove(watched)
        log.error("child process given up", child=watched.child.name, failures=watched.failures)
        if self.failure is None:
            self.failure = ChildFailed(sentence)
        self._on_failure()

    def _stop(self, group: tuple[Child, ...]) -> None:
        with ThreadPoolExecutor(max(len(group), 1), thread_name_prefix="stop") as pool:
            for child, clean in zip(group, pool.map(_stop_one, group), strict=True):
                if not clean:
                    self.stopped_cleanly = False
                    log.warning(
                        "child process had to be killed or ended with an error",
                        child=child.name,
                        exit_code=child.exit_code,
                    )


def _stop_one(child: Child) -> bool:
    try:
        return child.stop()
    except Exception:
        # The other child processes must still be stopped.
        log.exception("child process can't be stopped", child=child.name)
        return False
