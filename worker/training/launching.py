"""The command of a trainer, which is a launcher of several ranks for a job that wants more than one process, and its
environment variables."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.tracing import current_traceparent
from lit_spec import JobSpec
from worker.host.checkout import CHECKOUT

TRAINER = (sys.executable, "-m", "lit_core.trainer", ".", "--supervised")
LAUNCHER = (sys.executable, "-m", "lit_core.trainer.launch")
PASSED_ON = (
    "PATH",
    "LANG",
    "LD_LIBRARY_PATH",
    "PYTHONDONTWRITEBYTECODE",
    "OMP_WAIT_POLICY",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
)
"""The worker's own environment variables that its trainers get."""


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


def trainer_environment(folder: Path, device: str | None, threads: int | None) -> dict[str, str]:
    """The trainer's environment variables: search paths, its device and its threads, but no secrets.

    A `device` of None is not decided yet.
    """
    environment = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(CHECKOUT),
        # The job folder is the working directory, and nothing in it may be imported.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        # cuBLAS is deterministic only with a workspace of fixed size.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Threads that wait for each other sleep. Else they keep the cores busy, and beside other busy processes, such
        # as a second trainer, training takes many times as long.
        "OMP_WAIT_POLICY": "passive",
    }
    for name in PASSED_ON:
        if name in os.environ:
            environment[name] = os.environ[name]
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if (traceparent := current_traceparent()) is not None:
        environment["TRACEPARENT"] = traceparent
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment
