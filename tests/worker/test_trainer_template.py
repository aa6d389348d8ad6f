"""The template forks processes that are as good as executed ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lit_core.trainer.template import _load_while_idle
from lit_spec.trainer.folder import TrainerExit
from lit_spec.trainer.template import MAX_REQUEST_BYTES, Forked, ForkRequest, Program
from tests.lit_core.trainer.test_training import job_folder, run_process
from tests.worker.bench import TEMPLATE, wait_for
from tests.worker.forking import LIGHT_TEMPLATE, WAITS, fork, waiting
from worker.host import trainer_template
from worker.host.checkout import CHECKOUT
from worker.host.children import Child
from worker.host.trainer_template import TrainerTemplate, _subreaper
from worker.training.launching import trainer_environment

DIGITS = CHECKOUT / "examples" / "digits" / "teacher.safetensors"
SHORT: dict[str, Any] = {
    "lit": {"epochs": 1, "learning_rate": 0.1},
    "fine_tune": {"epochs": 0, "learning_rate": 0.01},
    "batch_size": 256,
}
SOME_DIGITS = {"builtin": "digits", "train_samples": 300}
INSPECT = [sys.executable, "-m", "lit_core.trainer.inspect"]
WORKER = """\
import os, sys
from pathlib import Path
from tests.worker.forking import LIGHT_TEMPLATE, waiting
from worker.host import trainer_template
from worker.host.trainer_template import TrainerTemplate
trainer_template.TEMPLATE = LIGHT_TEMPLATE
print(waiting(TrainerTemplate(dict(os.environ)), Path(sys.argv[1])).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates that need no torch: for tests which none of the loaded programs is needed for."""
    monkeypatch.setattr(trainer_template, "TEMPLATE", LIGHT_TEMPLATE)


@pytest.fixture
def waits(tmp_path: Path) -> Iterator[Child]:
    child = waiting(TEMPLATE, tmp_path)
    yield child
    child.end()


def test_the_exit_code_and_the_output_are_the_programs(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"no data set")
    child = fork(TEMPLATE, [*INSPECT, "data", ".", "--kind", "dataset"], tmp_path)
    wait_for(lambda: child.exit_code() is not None, 60)
    assert child.end() == TrainerExit.FAILED
    assert b'"bad-dataset"' in (tmp_path / "stdout").read_bytes()
    assert not psutil.pid_exists(child.pid)


def test_a_forked_process_is_a_child_that_leads_its_session(waits: Child, tmp_path: Path) -> None:
    process = psutil.Process(waits.pid)
    assert process.ppid() == os.getpid()
    assert os.getsid(waits.pid) == os.getpgid(waits.pid) == waits.pid
    wait_for(lambda: process.name() == "lit-trainer")
    assert process.cwd() == str(tmp_path)
    assert {str(tmp_path / "stdin"), str(tmp_path / "stderr")} <= set(links(waits.pid))
    waits.signal(signal.SIGKILL)
    wait_for(lambda: waits.exit_code() is not None)
    assert waits.end() == -signal.SIGKILL


BECOME = """\
import os
from lit_core.trainer.template import _become
from lit_spec.trainer.template import ForkRequest, Program
given = {"HOME": "/", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_become(ForkRequest(program=Program.TRAINER, arguments=[], folder="/", environment=given), [])
print(dict(os.environ) == given, os.getcwd())
"""


def test_it_has_no_secrets() -> None:
    """/proc shows the template's variables for ever, so the process itself is asked."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "AWS_SECRET_ACCESS_KEY": "a secret"}
    done = subprocess.run([sys.executable, "-c", BECOME], env=environment, capture_output=True, text=True)
    assert done.stdout == "True /\n", done.stderr


def test_it_has_only_its_own_files(waits: Child, tmp_path: Path) -> None:
    wait_for(lambda: psutil.Process(waits.pid).name() == "lit-trainer")
    assert set(links(waits.pid)) <= {str(tmp_path / name) for name in ("stdin", "stdout", "stderr", "run.json")}


LOADS_ALL = """\
import os
from itertools import chain
from lit_core.trainer.template import LOADED, LOADED_WHILE_IDLE, _load
_load(chain(*LOADED.values(), *LOADED_WHILE_IDLE.values()))
import torch
print(len(os.listdir("/proc/self/task")), torch.cuda.is_initialized())
"""


def test_a_template_that_has_loaded_everything_can_be_forked() -> None:
    """A fork has only one of its threads, and a GPU that was used before a fork can't be used after it.

    With more than one thread numpy's OpenBLAS starts some, but it ends them before a fork and starts them after it.
    """
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LOADS_ALL], env=environment, capture_output=True, text=True)
    assert done.stdout == "1 False\n", done.stderr


def test_what_is_loaded_while_idle_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "of_another_build.py").write_text("raise RuntimeError('no operator')")
    monkeypatch.syspath_prepend(tmp_path)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        modules = iter(["lit_core.no_such_module", "of_another_build", "colorsys"])
        _load_while_idle(its, modules)
        assert list(modules) == []
        told = capsys.readouterr().err
        assert "lit_core.no_such_module is not loaded ahead of the jobs" in told
        assert "of_another_build is not loaded ahead of the jobs: RuntimeError: no operator" in told
        ours.send(b"a request")
        modules = iter(["lit_core.no_such_module"])
        _load_while_idle(its, modules)
        assert list(modules) == ["lit_core.no_such_module"]


def test_a_module_that_goes_after_it_was_listed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lit_core"
    package.mkdir()
    (package / "there.py").touch()
    (package / "gone.py").symlink_to(package / "nothing.py")
    monkeypatch.setattr(trainer_template, "CHECKOUT", tmp_path)
    names = {Path(path).name for path in trainer_template.code_on_disk()}
    assert "there.py" in names
    assert "gone.py" not in names


def links(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.timeout(400)
def test_a_job_is_the_same_after_another_one(tmp_path: Path) -> None:
    """Nothing of it is left in the template: neither random states nor settings of torch nor what it has read.

    The one before is not like it: another seed, precision and batch size.
    """
    jobs = {
        "other": {"seed": 9, "precision": "bfloat16", "schedule": SHORT | {"batch_size": 24}},
        "first": {"seed": 1, "schedule": SHORT},
    }
    for name, request in jobs.items():
        folder = job_folder(tmp_path / name, DIGITS, dataset=SOME_DIGITS, **request)
        child = fork(TEMPLATE, [sys.executable, "-m", "lit_core.trainer", "."], folder)
        wait_for(lambda child=child: child.exit_code() is not None, 120)  # type: ignore[misc]
        assert child.end() == TrainerExit.DONE, (folder / "stderr").read_text()
    executed = job_folder(tmp_path / "executed", DIGITS, dataset=SOME_DIGITS, **jobs["first"])
    assert run_process(executed)[0] == TrainerExit.DONE
    weights = {path.name: (path / "output" / "model.safetensors").read_bytes() for path in tmp_path.iterdir()}
    assert weights["first"] == weights["executed"] != weights["other"]


@pytest.mark.usefixtures("light")
def test_another_template_is_started_when_one_has_ended(tmp_path: Path) -> None:
    template = TrainerTemplate(trainer_environment(tmp_path, None, 1))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    try:
        running = waiting(template, first)
        assert template._process is not None
        made = psutil.Process(template._process.pid)
        made.kill()
        # What it has forked does not depend on it.
        wait_for(lambda: not made.is_running() or made.status() == psutil.STATUS_ZOMBIE)
        assert running.exit_code() is None
        other = waiting(template, second)
        assert other.exit_code() is None
        for child in (running, other):
            assert child.end() == -signal.SIGKILL
    finally:
        template.stop()
    assert not made.is_running()


@pytest.mark.usefixtures("light")
def test_another_template_is_started_when_the_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "code" / "lit_spec"
    package.mkdir(parents=True)
    (package / "module.py").write_text("before = 1")
    monkeypatch.setattr(trainer_template, "CHECKOUT", tmp_path / "code")
    template = TrainerTemplate(trainer_environment(tmp_path, None, 1), [Program.INSPECTION])
    folders = [tmp_path / name for name in ("first", "same", "changed")]
    used = []
    try:
        for folder in folders:
            folder.mkdir()
            if folder.name == "changed":
                os.utime(package / "module.py", (1, 1))
            fork(template, [*INSPECT, "data", ".", "--kind", "dataset"], folder).end()
            assert template._process is not None
            used.append(template._process.pid)
    finally:
        template.stop()
    assert used[0] == used[1] != used[2]
    assert not psutil.pid_exists(used[0])


class Interrupted(Exception):
    pass


def interrupt() -> None:
    raise Interrupted


def test_a_start_is_interrupted_while_the_template_loads(tmp_path: Path) -> None:
    template = TrainerTemplate(trainer_environment(tmp_path, None, 1))
    with pytest.raises(Interrupted):
        fork(template, WAITS, tmp_path, check=interrupt)
    template.stop()
    assert template._process is None


def test_a_template_that_is_stopped_while_a_start_waits_is_not_replaced(tmp_path: Path) -> None:
    template = TrainerTemplate(trainer_environment(tmp_path, None, 1))
    stops = [threading.Thread(target=template.stop)]

    def stop() -> None:
        if not stops[0].is_alive():
            stops[0].start()

    with pytest.raises(OSError, match="has ended"):
        fork(template, WAITS, tmp_path, check=stop)
    stops[0].join(20)
    assert template._process is None


def test_a_process_that_the_worker_does_not_know_runs_nothing(tmp_path: Path) -> None:
    """As when the template is killed after the fork and before its answer."""
    (tmp_path / "data").write_bytes(b"no data set")
    fork(TEMPLATE, [*INSPECT, "data", ".", "--kind", "dataset"], tmp_path).end()
    (tmp_path / "stdout").unlink()
    requests = TEMPLATE._running()
    go, say_go = os.pipe()
    output = os.open(tmp_path / "stdout", os.O_RDWR | os.O_CREAT)
    request = ForkRequest(
        program=Program.INSPECTION, arguments=["data", ".", "--kind", "dataset"], folder=str(tmp_path), environment={}
    )
    with _subreaper():
        socket.send_fds(requests, [request.model_dump_json().encode()], [go, output, output, output])
        unknown = Child(Forked.model_validate_json(requests.recv(MAX_REQUEST_BYTES)).pid)
    for descriptor in (go, say_go, output):
        os.close(descriptor)
    wait_for(lambda: unknown.exit_code() is not None)
    assert unknown.end() == TrainerExit.FAILED
    assert (tmp_path / "stdout").read_bytes() == b""


def test_all_processes_die_with_the_worker(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    trainer = psutil.Process(int(worker.stdout.readline()))
    family = psutil.Process(worker.pid).children()
    assert trainer in family
    assert len(family) == 2
    worker.kill()
    worker.communicate()
    psutil.wait_procs(family, 20)
    assert not any(process.is_running() for process in family)
