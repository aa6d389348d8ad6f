"""Starts `litc serve` as a process and waits for its address: for the demo, the benchmarks and the tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.host.checkout import CHECKOUT

SECONDS_TO_START = 90.0
SECONDS_TO_STOP = 90.0
"""A training that is under way writes its checkpoint first."""
LOG_LINES_SHOWN = 40


class ServiceNotStarted(Exception):
    """The message shows the end of the service's log."""


@dataclass
class RunningService:
    """A `litc serve` that listens on `url`; everything that it prints goes to the file `log`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def end_of_log(self) -> str:
        return _end_of(self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the service to end and wait for that; its exit code. One that doesn't end in time is killed."""
        return _stop(self.process, number)


def own_environment(data_dir: Path) -> dict[str, str]:
    """This process's environment, without the settings of another service, for one whose data lie in `data_dir`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_")}
    for name in ("DATABASE_URL", "REDIS_URL", "MLFLOW_TRACKING_URI"):
        kept.pop(name, None)
    return {**kept, "LIT_DATA_DIR": str(data_dir)}


@contextmanager
def running_service(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """`litc serve` on a free port, with its data in `folder`/data and its log in `folder`/service.log.

    `options` are further options of the command, `environment` further variables. A service that was stopped on the
    same folder goes on where it was. Raises ServiceNotStarted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "service.log"
    command = [sys.executable, "-m", "lit_client.command", "serve", "--port", "0", *options]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the service in order.
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=own_environment(folder / "data") | dict(environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield RunningService(_wait_for_url(process, log), process, log)
    finally:
        _stop(process, signal.SIGTERM)


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        # Before the log is read, so that the last words of a process that ended are in it.
        code = process.poll()
        if found := re.search(r"LIT listens on (http://\S+)", log.read_text(errors="replace")):
            return found[1]
        if code is not None:
            raise ServiceNotStarted(f"The service ended with exit code {code} instead of starting:\n{_end_of(log)}")
        time.sleep(0.1)
    raise ServiceNotStarted(f"The service did not start within {SECONDS_TO_START:g} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])


def _stop(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
