"""Trainers in processes of their own, without loading torch again: they are forked from the tests' process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path

from lit_core.trainer.__main__ import main

FORK = get_context("fork")


def become_trainer(folder: Path, flags: list[str], deadlines: int, messages: int) -> None:
    """Make this process a trainer with these pipes, as if it had executed `python -m lit_core.trainer FOLDER`."""
    with folder.with_suffix(".log").open("w") as log:
        for number, stream in enumerate((deadlines, messages, log.fileno())):
            os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    # The handlers of the tests' process hold what a test logs.
    logging.getLogger().handlers.clear()
    sys.argv = ["lit_core.trainer", str(folder), *flags]
    sys.exit(main())


class ForkedTrainer:
    """A trainer and the ends of its two pipes. It ends with the tests' process at the latest."""

    def __init__(self, folder: Path, *flags: str) -> None:
        deadlines, own_deadlines = os.pipe()
        own_messages, messages = os.pipe()

        def begin() -> None:
            os.close(own_deadlines)
            os.close(own_messages)
            become_trainer(folder, list(flags), deadlines, messages)

        self._process = FORK.Process(target=begin, daemon=True)
        self._process.start()
        os.close(deadlines)
        os.close(messages)
        self.deadlines, self.messages = os.fdopen(own_deadlines, "w"), os.fdopen(own_messages)

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 60) -> int | None:
        """The exit code, negative after a signal; None if it still runs. Drops the messages that nobody has read."""
        self._process.join(seconds)
        for pipe in (self.deadlines, self.messages):
            pipe.close()
        return self._process.exitcode
