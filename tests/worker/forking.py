"""Starts programs from a template, as a worker does. Imports no torch, for scripts that tests run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from worker.host.children import Check, Child, no_check
from worker.host.trainer_template import TrainerTemplate

LIGHT_TEMPLATE = (sys.executable, "-m", "tests.worker.light_template")
"""Instead of `trainer_template.TEMPLATE`."""
WAITS = [sys.executable, "-m", "lit_core.trainer", ".", "--supervised"]
"""A trainer that waits: its specification and its input are pipes that nobody writes to."""


def fork(template: TrainerTemplate, command: list[str], folder: Path, check: Check = no_check) -> Child:
    streams = {name: os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("stdin", "stdout", "stderr")}
    try:
        return template.fork(command, folder, {"HOME": str(folder), "TMPDIR": str(folder)}, **streams, check=check)
    finally:
        for stream in streams.values():
            os.close(stream)


def waiting(template: TrainerTemplate, folder: Path) -> Child:
    os.mkfifo(folder / "run.json")
    os.mkfifo(folder / "stdin")
    return fork(template, WAITS, folder)
