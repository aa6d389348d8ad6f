"""`litc`, in this process or in one of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from lit_client.command.cli import main

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there: a command that ends with 2 has sent nothing."""


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


def environment(url: str, **more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LIT_")} | {"LIT_URL": url} | more


def litc(url: str, *words: object, **more: str) -> Finished:
    """Here, which saves the start of a process: its exit code, and what it wrote where no terminal is."""
    return litc_with(environment(url, **more), *words)


def litc_with(variables: Mapping[str, str], *words: object) -> Finished:
    """The same with these environment variables and no others."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["litc", *map(str, words)]),
        patch.dict(os.environ, variables, clear=True),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        _same_signal_handlers(),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    return Finished(code, stdout.getvalue(), stderr.getvalue())


@contextmanager
def _same_signal_handlers() -> Iterator[None]:
    """A command leaves both signals ignored, which every process that this one starts would inherit."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def litc_process(url: str, *words: object, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as people and pipelines run it."""
    command = [sys.executable, "-m", "lit_client.command", *map(str, words)]
    return subprocess.run(command, env=environment(url, **more), cwd=cwd, capture_output=True, text=True, timeout=60)
