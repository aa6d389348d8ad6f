"""The command of a trainer, which is a launcher of several ranks for a job that wants more than one process."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from lit_spec import JobSpec

TRAINER = (sys.executable, "-m", "lit_core.trainer", ".", "--supervised")
LAUNCHER = (sys.executable, "-m", "lit_core.trainer.launch")


def command_for(
    spec: JobSpec, usual: Sequence[str], endpoint: str | None, *, node: int, run: str, join_seconds: float
) -> Sequence[str]:
    """The command with which a worker runs its part of a job; `usual` for a job of one process.

    `endpoint` is host:port of node 0; None for a job of one node.
    """
    if spec.processes == 1:
        return usual
    command = [*LAUNCHER, str(spec.devices)]
    if endpoint is not None:
        command += ["--nodes", str(spec.nodes), "--node", str(node), "--endpoint", endpoint, "--run", run]
        command += ["--join-seconds", str(max(int(join_seconds), 1))]
    return command


def free_endpoint(address: str) -> str:
    """host:port of a port that is free now. If another program takes it before the trainer does, the attempt fails,
    and the next one has another port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{address}:{probe.getsockname()[1]}"
