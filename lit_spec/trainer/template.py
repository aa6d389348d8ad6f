"""What a worker asks its template, the process that has loaded torch and forks trainers and inspections."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel

MAX_REQUEST_BYTES = 64 << 10
"""A request is one packet on a Unix socket."""


class Program(StrEnum):
    """The modules that a template can run, as `python -m` would."""

    TRAINER = "lit_core.trainer"
    INSPECTION = "lit_core.trainer.inspect"


READY = b"ready"
"""The template's first packet: torch is loaded."""
GO = b"go"
"""The new process runs nothing before it has read this."""


class ForkRequest(BaseModel):
    """Sent with four file descriptors: the end of a pipe on which `GO` comes, and standard input, output and error of
    the new process. It ends when that pipe is closed without `GO`.
    """

    program: Program
    arguments: list[str]
    folder: str
    """The working directory."""
    environment: dict[str, str]
    """All environment variables."""


class Forked(BaseModel):
    pid: int
    """The new process, which leads a session of its own. Its parent is the worker."""
