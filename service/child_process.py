"""One child process that is started by a command line."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.errors import ChildFailed


class ChildProcess:
    """Runs `command` in its own process group. `stop` sends SIGTERM and, `seconds_to_stop` later, SIGKILL.

    Ctrl-C in a terminal reaches a whole process group. Child processes in other groups don't get it; this process
    stops them in order. Output goes to the file `output`, or to this process's own output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        seconds_to_stop: float,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = environment
        self._output = output
        self._seconds_to_stop = seconds_to_stop
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        try:
            if self._output is None:
                self._process = subprocess.Popen(self._command, env=self._environment, process_group=0)
                return
            with self._output.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command, env=self._environment, process_group=0, stdout=output, stderr=subprocess.STDOUT
                )
        except OSError as failure:
            raise ChildFailed(f"{self.name} can't be started: {failure}") from failure

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> bool:
        if self._process is None:
            return True
        if self._process.poll() is not None:
            # It ended before; if that was an error, the error is already in the log.
            return True
        self._process.terminate()
        try:
            code = self._process.wait(self._seconds_to_stop)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        # If the signal itself ended the process, the process had not installed its handler yet.
        return code in (0, -signal.SIGTERM)
