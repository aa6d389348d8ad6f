"""`litc worker` keeps its processes running until it is asked to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from service.child_process import ChildProcess
from service.commands.worker import run_until_signal

SLEEPING = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_processes_are_stopped_by_a_signal(number: signal.Signals) -> None:
    children = [ChildProcess(name, SLEEPING, seconds_to_stop=10) for name in ("training", "inspecting")]

    def ask() -> None:
        while not all(child.alive() for child in children):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    assert run_until_signal(children) == 0
    asking.join()
    assert not any(child.alive() for child in children)
