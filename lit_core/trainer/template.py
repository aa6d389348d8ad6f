"""`python -m lit_core.trainer.template`: load torch once, then fork a process for each training and each inspection.

Loading torch takes seconds of processor time, forking takes milliseconds. A forked process has the loaded modules and
nothing else: no job ever runs in this process, and it never uses CUDA.

Standard input is a Unix socket, on which the worker sends `ForkRequest`s. The forked process leads its own session, and
its parent is the worker: the process between them ends at once, and the worker is the subreaper meanwhile. So the
worker waits for it and kills it as if it had executed the program.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from lit_core.trainer.supervision import PR_SET_PDEATHSIG, prctl
from lit_spec.trainer.folder import TrainerExit
from lit_spec.trainer.template import GO, MAX_REQUEST_BYTES, READY, Forked, ForkRequest, Program

LOADED = (
    "lit_core.networks.teacher",
    "lit_core.data.inspection",
    "lit_core.exports",
    # Each job's card has a plot. Matplotlib would look for fonts in each job, because its cache is in the job's folder.
    "lit_core.exports.training_figure",
    # Torch loads this when the first optimizer is made, which takes as long as loading torch itself.
    "torch._dynamo",
)
PROCESS_NAMES = {Program.TRAINER: b"lit-trainer", Program.INSPECTION: b"lit-inspection"}
"""Of at most 15 bytes."""
PR_SET_NAME = 15
DESCRIPTORS = 4


def main() -> int:
    worker = os.getppid()
    requests = socket.socket(fileno=os.dup(0))
    programs = _load()
    # The garbage collector would write to the modules' pages, which are shared until then.
    gc.freeze()
    requests.send(READY)
    while True:
        packet, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, DESCRIPTORS)
        if not packet:
            return 0
        request = ForkRequest.model_validate_json(packet)
        pid = _fork(worker)
        if pid == 0:
            requests.close()
            go, *streams = descriptors
            _wait_for_go(go)
            _become(request, streams)
            code = programs[request.program]()
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            # Taking the loaded modules apart, as the interpreter would, takes longer than a small inspection.
            os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(Forked(pid=pid).model_dump_json().encode())


def _load() -> dict[Program, Callable[[], int]]:
    programs = {
        Program.TRAINER: import_module("lit_core.trainer.__main__").main,
        Program.INSPECTION: import_module("lit_core.trainer.inspect").main,
    }
    for module in LOADED:
        import_module(module)
    return programs


def _fork(worker: int) -> int:
    """Fork a process whose parent is the worker. Returns its id; 0 in the new process."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        between = os.getpid()
        if os.fork() != 0:
            os._exit(0)
        # Before its id is known, because signals go to its group.
        os.setsid()
        os.write(writing, str(os.getpid()).encode())
        os.close(reading)
        os.close(writing)
        _wait_for_parent(worker, between)
        return 0
    os.close(writing)
    # Once the process between has been reaped, the new one is the worker's child.
    os.waitpid(between, 0)
    with os.fdopen(reading) as answer:
        return int(answer.read())


def _wait_for_parent(worker: int, between: int) -> None:
    """Wait until the worker is the parent, and die with it."""
    while (parent := os.getppid()) == between:
        time.sleep(0.0005)
    if parent == worker:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(TrainerExit.FAILED)


def _wait_for_go(pipe: int) -> None:
    """If this process's id has not reached the worker, another one may have taken the place of this one."""
    if os.read(pipe, len(GO)) != GO:
        os._exit(TrainerExit.FAILED)
    os.close(pipe)


def _become(request: ForkRequest, streams: Sequence[int]) -> None:
    """Make this process one that the worker has executed."""
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    # Where it was before: in the folder of the worker.
    tempfile.tempdir = None
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.argv = [request.program, *request.arguments]
    # The command line stays the template's, so this name tells what the process is.
    prctl(PR_SET_NAME, PROCESS_NAMES[request.program])


if __name__ == "__main__":
    sys.exit(main())
