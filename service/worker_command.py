"""`litc worker`: the training worker and, beside it, the inspecting one, as children of one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from jobs.database.connection import database_url
from jobs.settings import Settings, explain
from worker.host.devices import worker_devices
from worker.host.parent import stop_with_parent

USAGE = 2
CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS_TO_STOP = 60.0
"""A trainer gets 20 s for its checkpoint; the rest is for storage and ledger."""
LOOK_SECONDS = 0.5


def worker(
    devices: Annotated[
        str | None, typer.Option(help='Take jobs for "cpu", "cuda" or both (comma-separated). Default: what is found.')
    ] = None,
    with_inspect: Annotated[bool, typer.Option(help="Inspect uploaded teachers as well, in a second process.")] = True,
    parent: Annotated[int | None, typer.Option("--stop-with-parent", hidden=True, help="The parent's pid.")] = None,
) -> None:
    """Run a worker: it claims jobs, trains one at a time and inspects uploaded teachers."""
    _check_settings(devices)
    if parent is not None:
        stop_with_parent(parent)
    base = [sys.executable, "-m", "service.worker_process", "--stop-with-parent", str(os.getpid())]
    commands = [[*base, *(["--devices", devices] if devices else [])]]
    if with_inspect:
        commands.append([*base, "--inspect"])
    raise typer.Exit(run_together(commands))


def _check_settings(devices: str | None) -> None:
    """Before two processes each say what is wrong. Ends with a sentence."""
    try:
        settings = Settings()
        if not settings.database_url or not settings.redis_url:
            raise ValueError("`litc worker` needs DATABASE_URL and REDIS_URL; `litc serve` brings its own")
        database_url(settings.database_url)
        if (told := devices or settings.worker_devices) is not None:
            worker_devices(told)
    except ValidationError as wrong:
        _end(explain(wrong))
    except ValueError as wrong:
        _end(str(wrong))


def _end(sentence: str) -> NoReturn:
    typer.echo(f"{sentence[:1].upper()}{sentence[1:]}.", err=True)
    raise typer.Exit(USAGE)


def run_together(commands: list[list[str]]) -> int:
    """Run the commands until one ends or SIGTERM or SIGINT comes, then end them all by SIGTERM.

    Returns 0 when that was asked for and all ended well; a process that ends by itself is an error.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    # Groups of their own: Ctrl-C reaches this process alone, which then asks each child once.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.getenv("PYTHONPATH")]))}
    children = [subprocess.Popen(command, process_group=0, env=environment) for command in commands]
    while not asked.wait(LOOK_SECONDS) and all(child.poll() is None for child in children):
        pass
    ended_early = not asked.is_set()
    codes = _stop(children)
    # Ended by the signal itself: it had only begun to load what would have ended it well.
    return 1 if ended_early or any(code not in (0, -signal.SIGTERM) for code in codes) else 0


def _stop(children: list[subprocess.Popen[bytes]]) -> list[int]:
    for child in children:
        if child.poll() is None:
            child.terminate()
    codes = []
    for child in children:
        try:
            codes.append(child.wait(SECONDS_TO_STOP))
        except subprocess.TimeoutExpired:
            child.kill()
            codes.append(child.wait())
    return codes
