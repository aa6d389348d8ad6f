"""`litc worker` looks after its two processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.worker_command import run_together

LOADING = "import time; time.sleep(60)"
"""Has no handler yet."""
ENDING_BADLY = (
    "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended_once(ready: Path | None, commands: list[list[str]]) -> int:
    """The code of commands that are asked to end, once there is a file."""

    def ask() -> None:
        while ready is not None and not ready.exists():
            time.sleep(0.02)
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return run_together(commands)
    finally:
        asking.join()


def test_a_process_that_is_ended_while_it_loads_has_done_nothing_wrong() -> None:
    assert ended_once(None, [[sys.executable, "-c", LOADING]] * 2) == 0


def test_a_process_that_ends_badly_when_asked_is_told(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    commands = [[sys.executable, "-c", LOADING], [sys.executable, "-c", ENDING_BADLY, str(ready)]]
    assert ended_once(ready, commands) == 1


def test_a_process_that_ends_by_itself_ends_the_other() -> None:
    assert run_together([[sys.executable, "-c", LOADING], [sys.executable, "-c", ""]]) == 1
