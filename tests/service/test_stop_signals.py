"""SIGTERM and Ctrl-C while a command of the service is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lit_client.command import NOWHERE, ROOT, environment

PROGRAM = """
import signal, sys, time

class Pause:
    def find_spec(self, name, *_):
        if name == f"service.commands.{sys.argv[1]}":
            print("importing", flush=True)
            # In short pieces: Python handles a signal that comes just before a sleep only after it.
            for _ in range(600):
                time.sleep(0.1)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Pause())
from lit_client.command.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["serve", "api", "worker", "migrate", "keys"])
def test_a_signal_during_the_imports_ends_the_command_without_a_word(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, command],
        cwd=ROOT,
        env=environment(NOWHERE, LIT_DATA_DIR=str(tmp_path / "data")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (130, "", "")


FINALIZED = """
import os, signal, time
from service.signals import exit_on_signals

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

exit_on_signals(3)
Finalized()
time.sleep(10)
"""


def test_a_signal_while_an_object_is_finalized_ends_the_command() -> None:
    """Python drops the SystemExit that is raised there."""
    ended = subprocess.run([sys.executable, "-c", FINALIZED], cwd=ROOT, capture_output=True, text=True, timeout=8)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")
