"""The trainer's side of its supervision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lit_spec.trainer.folder import TrainerExit
from lit_spec.trainer.messages import Deadline

TRAINER = """
import time
from lit_core.trainer.supervision import DeadlineWatch
DeadlineWatch().start(supervised=True)
time.sleep(60)
"""


def test_a_trainer_ends_at_its_deadline_even_if_its_log_cannot_be_written() -> None:
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen([sys.executable, "-c", TRAINER], stdin=subprocess.PIPE, stderr=full, text=True) as trainer,
    ):
        assert trainer.stdin is not None
        trainer.stdin.write(Deadline(deadline=1.0).as_line() + "\n")
        trainer.stdin.flush()
        try:
            assert trainer.wait(30) == TrainerExit.DEADLINE
        finally:
            trainer.kill()
