"""`litc worker` keeps its processes running until it is asked to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from service.child_process import ChildProcess
from service.commands.worker import run_until_signal
from tests.lit_client.command import ROOT
from tests.worker.bench import Bench

SLEEPING = [sys.executable, "-c", "import time; time.sleep(60)"]
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


def exit_code_after(number: signal.Signals, ready: Callable[[], bool], children: Sequence[ChildProcess]) -> int:
    """Of the command that keeps the children running, and that gets the signal twice once they are ready."""

    def ask() -> None:
        while not ready():
            time.sleep(0.02)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return run_until_signal(children)
    finally:
        asking.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_processes_are_stopped_by_a_signal(number: signal.Signals) -> None:
    children = [ChildProcess(name, SLEEPING, seconds_to_stop=10) for name in ("training", "inspecting")]
    assert exit_code_after(number, lambda: all(child.alive() for child in children), children) == 0
    assert not any(child.alive() for child in children)


def test_a_process_that_ends_badly_when_asked_makes_the_exit_code(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    bad = ChildProcess("inspecting", [sys.executable, "-c", ENDING_BADLY, str(ready)], seconds_to_stop=10)
    good = ChildProcess("training", SLEEPING, seconds_to_stop=10)
    assert exit_code_after(signal.SIGTERM, ready.exists, [good, bad]) == 1


def test_a_worker_on_the_wrong_storage_says_so_once(bench: Bench, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIT_")} | {
        "DATABASE_URL": bench.settings.database_url or "",
        "REDIS_URL": bench.settings.redis_url or "",
        "LIT_DATA_DIR": str(tmp_path / "data"),
        "LIT_STORAGE_DIR": str(tmp_path / "other"),
        "LIT_RESTART_SECONDS": "0.01",
    }
    command = [sys.executable, "-m", "lit_client.command", "worker", "--devices", "cpu", "--no-with-inspect"]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.count(f"the storage {tmp_path / 'other'} can't be used") == 1
    assert ended.stderr.endswith("Training worker can't start, so everything was stopped; it has said why.\n")
