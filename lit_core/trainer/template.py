"""`python -m lit_core.trainer.template PROGRAM …`: load torch once, then fork a process for each job or inspection.

Loading torch takes seconds of processor time, forking takes milliseconds. A forked process has the loaded modules and
nothing else: no job ever runs in this process, and it never uses CUDA.

First it loads what its programs need to begin, and says that it is ready. What many of them need later it loads while
no request waits, module by module.

Standard input is a Unix socket, on which the worker sends `ForkRequest`s. The forked process leads its own session, and
its parent is the worker: the process between them ends at once, and the worker is the subreaper meanwhile. So the
worker waits for it and kills it as if it had executed the program.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module

from lit_core.trainer.supervision import PR_SET_PDEATHSIG, prctl
from lit_spec.trainer.folder import TrainerExit
from lit_spec.trainer.template import GO, MAX_REQUEST_BYTES, READY, Forked, ForkRequest, Program

LOADED = {
    Program.TRAINER: (
        "lit_core.trainer.__main__",
        # Torch loads this when the first optimizer is made, which takes as long as loading torch itself.
        "torch._dynamo",
    ),
    Program.INSPECTION: ("lit_core.trainer.inspect", "lit_core.networks.teacher", "lit_core.data.inspection"),
}
"""The module with `main` comes first."""
LIBRARIES = ("torchvision.models", "timm")
LOADED_WHILE_IDLE = {
    Program.TRAINER: (
        # What torch.export and torch.onnx load when they are first used. Not onnxruntime, which starts a thread.
        "torch.export._trace",
        "torch.onnx._internal.exporter._compat",
        "torch.onnx._internal.exporter._torchlib.ops",
        "onnxscript.function_libs.torch_lib.ops",
        *LIBRARIES,
        # Else each job that draws looks for the machine's fonts, in its own folder.
        "matplotlib.font_manager",
        "matplotlib.backends.backend_agg",
    ),
    Program.INSPECTION: LIBRARIES,
}
PROCESS_NAMES = {Program.TRAINER: b"lit-trainer", Program.INSPECTION: b"lit-inspection"}
"""Of at most 15 bytes."""
PR_SET_NAME = 15
DESCRIPTORS = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer.template", description=__doc__)
    parser.add_argument("programs", nargs="+", type=Program, help="what is forked: other programs are loaded anew")
    programs: list[Program] = parser.parse_args().programs
    worker = os.getppid()
    requests = socket.socket(fileno=os.dup(0))
    _load(module for program in programs for module in LOADED[program])
    requests.send(READY)
    for_later = iter([module for program in programs for module in LOADED_WHILE_IDLE[program]])
    while True:
        _load_while_idle(requests, for_later)
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
            code = _main_of(request.program)()
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            # Taking the loaded modules apart, as the interpreter would, takes longer than a small inspection.
            os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(Forked(pid=pid).model_dump_json().encode())


def _load(modules: Iterable[str]) -> None:
    for module in modules:
        import_module(module)
    # The garbage collector would write to the modules' pages, which are shared until then.
    gc.freeze()


def _load_while_idle(requests: socket.socket, modules: Iterator[str]) -> None:
    """Load one module after the other until a request waits. What can't be loaded is left to the jobs that need it."""
    while not select.select([requests], [], [], 0)[0]:
        module = next(modules, None)
        if module is None:
            return
        try:
            _load([module])
        except Exception as failure:  # noqa: BLE001 - torchvision for another build of torch raises RuntimeError
            sys.stderr.write(f"{module} is not loaded ahead of the jobs: {type(failure).__name__}: {failure}\n")


def _main_of(program: Program) -> Callable[[], int]:
    main: Callable[[], int] = import_module(LOADED[program][0]).main
    return main


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
