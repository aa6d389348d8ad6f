"""The worker's side of its template: the process that has loaded torch, and forks trainers and inspections."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from jobs.private_files import PRIVATE_UMASK
from jobs.settings import Settings
from lit_spec.trainer.template import GO, MAX_REQUEST_BYTES, READY, Forked, ForkRequest, Program
from worker.host.checkout import CHECKOUT
from worker.host.children import Check, Child, no_check

TEMPLATE = (sys.executable, "-m", "lit_core.trainer.template")
"""Followed by the programs that it forks."""
ANSWER_SECONDS = 20.0
"""A fork takes milliseconds, but the machine may be busy."""
LOOK_SECONDS = 0.1
PACKAGES = ("lit_core", "lit_spec")
"""The trainer's code."""
ENDED = "the process from which trainers are forked has ended; its last lines are in this log"
PR_SET_CHILD_SUBREAPER = 36

Code = dict[str, int]

log = structlog.get_logger()


class TrainerTemplate:
    """Starts one template when it is asked to, and another one when that has ended or its code has changed. For several
    threads.

    `environment` has the variables that count when libraries are loaded: search paths and numbers of threads. The
    template forks these `programs`, and has loaded what they need.
    """

    def __init__(self, environment: Mapping[str, str], programs: Sequence[Program] = tuple(Program)) -> None:
        self._environment, self._programs = dict(environment), programs
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._ready = False
        self._code: Code | None = None
        """As it was when the template was started."""
        self._stopped = False

    def start(self) -> None:
        """Begin to load torch, so that the first job need not wait for it. Raises OSError."""
        with self._lock:
            self._running()

    def stop(self) -> None:
        """End the template. A `fork` that waits for it raises OSError."""
        self._stopped = True
        # Without the lock, which a waiting `fork` has.
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()

    def fork(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        check: Check = no_check,
    ) -> Child:
        """Start `command`, a `Program` run by `python -m`, as a child of this process.

        While torch is being loaded, `check` is called again and again, and what it raises is raised. Raises OSError.
        """
        _, _, program, *arguments = command
        request = ForkRequest(
            program=Program(program), arguments=arguments, folder=str(folder), environment=dict(environment)
        )
        streams = [stdin, stdout, stderr]
        with self._lock:
            if self._code is not None and self._code != code_on_disk():
                log.info("the trainer's code has changed; starting another template")
                self._end()
            try:
                return self._ask(request, streams, check)
            except OSError as failure:
                self._end()
                if self._stopped:
                    raise
                log.warning("the template of the trainers has ended; starting another one", error=str(failure))
                return self._ask(request, streams, check)

    def _ask(self, request: ForkRequest, streams: Sequence[int], check: Check) -> Child:
        requests = self._running()
        self._wait_until_ready(requests, check)
        go, say_go = os.pipe()
        try:
            with _subreaper():
                socket.send_fds(requests, [request.model_dump_json().encode()], [go, *streams])
                answer = requests.recv(MAX_REQUEST_BYTES)
            if not answer:
                raise OSError(ENDED)
            os.write(say_go, GO)
        finally:
            # A process that was forked but is not known here ends when it reads the end of this pipe.
            os.close(go)
            os.close(say_go)
        return Child(Forked.model_validate_json(answer).pid)

    def _wait_until_ready(self, requests: socket.socket, check: Check) -> None:
        while not self._ready:
            readable, _, _ = select.select([requests], [], [], LOOK_SECONDS)
            if readable:
                if requests.recv(MAX_REQUEST_BYTES) != READY:
                    raise OSError(ENDED)
                self._ready = True
            else:
                check()

    def _running(self) -> socket.socket:
        """The socket of the running template, which is started if there is none."""
        if self._requests is None:
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(ANSWER_SECONDS)
            self._code = code_on_disk()
            with its:
                self._process = subprocess.Popen(
                    [*TEMPLATE, *self._programs],
                    cwd="/",
                    env=self._environment,
                    stdin=its.fileno(),
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                    umask=PRIVATE_UMASK,
                )
            self._requests = ours
            self._ready = False
        return self._requests

    def _end(self) -> None:
        # It ends when its socket is closed; while it still loads torch it does not see that.
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def code_on_disk() -> Code:
    """Differs from an earlier one after a file of the trainer's code was changed or a package was installed."""
    code: Code = {}
    for path in (Path(sysconfig.get_path("purelib")), *_modules()):
        # A file may go after it was listed: an editor or an installation replaces it.
        with suppress(FileNotFoundError):
            code[str(path)] = path.stat().st_mtime_ns
    return code


def _modules() -> Iterator[Path]:
    for package in PACKAGES:
        # Unlike `rglob`, this passes over a folder that has gone.
        for folder, _, names in os.walk(CHECKOUT / package):
            yield from (Path(folder, name) for name in names if name.endswith(".py"))


@contextmanager
def _subreaper() -> Iterator[None]:
    """Meanwhile descendants whose parent ends become children of this process.

    Not for longer, because nobody here waits for others' descendants, for example a database server in a test.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)


def opened_template(settings: Settings, environment: Mapping[str, str], program: Program) -> TrainerTemplate | None:
    """A template that begins to load what the program needs; None if the settings want none. Raises OSError."""
    if not settings.warm_trainer:
        return None
    template = TrainerTemplate(environment, [program])
    template.start()
    return template
