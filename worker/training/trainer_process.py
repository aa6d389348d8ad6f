"""One trainer: a subprocess in its own process group, its messages, its deadlines and its end."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog

from jobs.private_files import PRIVATE_FILE
from jobs.side_task import SideTask
from lit_spec.trainer.folder import LOG_FILE
from lit_spec.trainer.messages import Deadline, TrainerMessage
from worker.host.children import Check, Start, no_check
from worker.training.limits import TrainerLimits
from worker.training.messages import MAX_LINE_BYTES, parse

BACKLOG = 1000
"""Messages that are kept while the ledger is slow. With more, the trainer's pipe fills and the trainer waits."""
READ_BYTES = 1 << 16
SECONDS_FOR_PIPE = 5.0

log = structlog.get_logger()


class Trainer:
    """Starts `command` in `folder`. As a context manager it leaves no process of its group behind. Raises OSError."""

    def __init__(
        self,
        start: Start,
        command: Sequence[str],
        folder: Path,
        environment: dict[str, str],
        limits: TrainerLimits,
        check: Check = no_check,
    ) -> None:
        self.log = folder / LOG_FILE
        self.limits = limits
        self._messages: queue.Queue[TrainerMessage] = queue.Queue(BACKLOG)
        self._ended = False
        self._abandoned = False
        # Appending, because lines of standard output that are not messages are added to the same file.
        self._log_file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        with ExitStack() as on_failure:
            on_failure.callback(os.close, self._log_file)
            its_deadlines, self._deadlines = _pipe(on_failure)
            self._events, its_events = _pipe(on_failure)
            self._child = start(
                command,
                folder,
                environment,
                stdin=its_deadlines,
                stdout=its_events,
                stderr=self._log_file,
                check=check,
            )
            on_failure.callback(self._child.end)
            limits.apply(self._child.pid)
            on_failure.pop_all()
        os.close(its_deadlines)
        os.close(its_events)
        # A suspended trainer reads no deadlines, and this process must not wait for it.
        os.set_blocking(self._deadlines, False)
        self._signals = threading.Lock()
        self._reader = SideTask("trainer-events", self._read, longest_pause=1.0)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def write_deadline(self, deadline: float) -> None:
        """Tell the trainer until when its worker certainly has the lease, in seconds on `boottime`."""
        line = Deadline(deadline=deadline).as_line() + "\n"
        with self._signals:
            if self._ended:
                return
            try:
                os.write(self._deadlines, line.encode())
            except (BlockingIOError, BrokenPipeError):
                # Full or closed: the trainer does not read. `exited` notices its end.
                return

    def terminate(self) -> None:
        """Ask the trainer to write a checkpoint and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def exited(self) -> bool:
        """Whether the trainer itself has ended. It stays a zombie, so that its group's id is not reused."""
        return self._child.exit_code() is not None

    def messages(self, timeout: float) -> list[TrainerMessage]:
        """The messages since the last call; waits up to `timeout` seconds for the first."""
        try:
            found = [self._messages.get(timeout=timeout)]
        except queue.Empty:
            return []
        while len(found) < BACKLOG:
            try:
                found.append(self._messages.get_nowait())
            except queue.Empty:
                break
        return found

    def end(self) -> int:
        """Kill the rest of the group, reap it and return the trainer's exit code (negative: the number of a signal)."""
        with self._signals:
            code = self._child.end()
            if not self._ended:
                self._ended = True
                os.close(self._deadlines)
        return code

    def all_messages_read(self) -> bool:
        """Whether no more messages can come. A process that left the group may keep the pipe open for ever."""
        return self._reader.over and self._messages.empty()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        self.end()
        self._reader.stop(SECONDS_FOR_PIPE)
        os.close(self._log_file)

    def last_log_line(self) -> str:
        """The last line of the trainer's log, for the sentence that says why it crashed."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            text = file.read().decode(errors="replace")
        lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
        return next((line[-500:] for line in reversed(lines) if line), "")

    def _signal(self, number: signal.Signals) -> None:
        with self._signals:
            if not self._ended:
                # The group still exists: its leader is reaped only in `end`.
                self._child.signal(number)

    def _read(self, _: threading.Event) -> None:
        try:
            self._read_lines()
        finally:
            os.close(self._events)

    def _read_lines(self) -> None:
        line = bytearray()
        too_long = False
        while chunk := os.read(self._events, READ_BYTES):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                line += end
                self._take(bytes(line), too_long=too_long)
                line.clear()
                too_long = False
            line += rest
            if len(line) > MAX_LINE_BYTES:
                too_long = True
                del line[1000:]
        if line:
            self._take(bytes(line), too_long=too_long)

    def _take(self, line: bytes, *, too_long: bool) -> None:
        message = None if too_long or len(line) > MAX_LINE_BYTES else parse(line)
        if message is None:
            self._keep_in_log(line)
            return
        while True:
            try:
                self._messages.put(message, timeout=1.0)
            except queue.Full:
                if self._abandoned:
                    return
            else:
                return

    def _keep_in_log(self, line: bytes) -> None:
        if not line.strip() or self._abandoned:
            return
        try:
            with self.log.open("ab") as file:
                file.write(line[:1000] + b"\n")
        except OSError as failure:
            # The messages that follow matter more.
            log.warning("a line of the trainer's output is left out of its log", error=str(failure))


def _pipe(on_failure: ExitStack) -> tuple[int, int]:
    """(end for reading, end for writing)"""
    ends = os.pipe()
    for end in ends:
        on_failure.callback(os.close, end)
    return ends
