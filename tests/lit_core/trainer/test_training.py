"""The trainer as a process: what it writes, how it resumes, and how it refuses."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lit_core
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.layout import NoSections
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_core.trainer.__main__ import job_error
from lit_core.trainer.__main__ import run as run_trainer
from lit_core.trainer.supervision import DeadlineWatch
from lit_spec import Inspection, JobRequest, SpecError, resolve
from lit_spec.trainer.clock import boottime
from lit_spec.trainer.folder import TrainerExit
from lit_spec.trainer.messages import TrainerMessage
from lit_spec.trainer.report import Report
from tests.lit_core.trainer.forked import FORK, ForkedTrainer, become_trainer

SCHEDULE = {"lit": {"epochs": 2, "learning_rate": 0.05}, "fine_tune": {"epochs": 2, "learning_rate": 0.02}}


def stripes(samples: int = 240, classes: int = 3) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images whose brightest row tells their class: learnt within seconds."""
    rng = np.random.default_rng(0)
    y = np.arange(samples) % classes
    x = rng.integers(0, 90, size=(samples, 8, 8), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        image[2 * label + 1] += 150
    return x, y


def teach(network: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """By SGD, the samples in their order."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for start in range(0, len(labels), 24):
            optimizer.zero_grad()
            batch = slice(start, start + 24)
            torch.nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
            optimizer.step()


def write_dataset(path: Path, **arrays: Any) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def job_folder(folder: Path, teacher_file: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(teacher_file.read_bytes())
    x, y = stripes()
    write_dataset(folder / "dataset", x=x, y=y)
    write_spec(folder, teacher_file, **changes)
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 1}))
    return folder


@cache
def inspected(teacher_file: Path) -> Inspection:
    """What is found in a file that no test changes: once, because it takes as long as a short training."""
    return inspect_teacher(read_teacher(teacher_file))


def write_spec(folder: Path, teacher_file: Path, **changes: Any) -> None:
    request: dict[str, Any] = {
        "teacher": "upl_t",
        "dataset": {"upload": "upl_d"},
        "student": {"depth": 14, "select": "even"},
        "schedule": SCHEDULE,
        "exports": [],  # they would take most of a test's time
        **changes,
    }
    spec = resolve(JobRequest.model_validate(request), inspected(teacher_file))
    (folder / "spec.json").write_text(spec.model_dump_json())


def run_process(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the messages of a trainer that is executed, and so loads torch again."""
    done = subprocess.run(
        [sys.executable, "-m", "lit_core.trainer", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def types_of(events: list[dict[str, Any]]) -> list[str]:
    """Those whose number does not depend on how long the training takes."""
    return [event["type"] for event in events if event["type"] not in {"checkpoint", "progress"}]


class KeptMessages:
    """Takes a trainer's messages instead of the pipe."""

    def __init__(self) -> None:
        self.messages: list[TrainerMessage] = []

    def emit(self, message: TrainerMessage) -> None:
        self.messages.append(message)


def run(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """The same in this process, which takes as long as the job and not as long as loading torch again."""
    kept = KeptMessages()
    code = run_trainer(folder, kept, DeadlineWatch())
    return code, [json.loads(message.as_line()) for message in kept.messages]


def test_a_job_writes_a_model_its_configuration_and_its_report(tmp_path: Path, teacher_file: Path) -> None:
    folder = job_folder(tmp_path / "job", teacher_file, accept={"max_accuracy_drop": 5}, exports=["onnx", "pt2"])
    code, events = run(folder)
    assert code == 0
    assert types_of(events) == [
        "started",
        "teacher_measured",
        "epoch",
        "epoch",
        "epoch",
        "epoch",
        "finished",
    ]
    first = next(e for e in events if e["type"] == "epoch")
    assert (first["phase"], first["epoch"], first["epochs"], first["fraction"]) == ("lit", 1, 2, 0.25)
    metrics = first["metrics"]
    assert metrics["ir_loss"] == pytest.approx(sum(metrics[f"ir_loss_{n}"] for n in (1, 2, 3)))
    assert metrics["loss"] == pytest.approx(0.5 * metrics["kd_loss"] + 0.5 * metrics["ir_loss"])
    report = json.loads((folder / "output" / "report.json").read_text())
    assert Report.model_validate(report).as_json() == report
    assert report["teacher"]["accuracy"]["test"] >= 90
    assert report["student"]["accuracy"]["test"] >= 85
    assert report["accepted"] is (report["accuracy_drop"] <= 5)
    assert report["student"]["top5"] == {"val": None, "test": None}, "there are 3 classes"
    assert set(report["student"]["per_class"]["test"]) == set(report["classes"])
    assert 0 <= report["student"]["calibration_error"]["val"] <= 100
    assert report["teacher"]["agreement"] == {"val": 100, "test": 100}
    assert report["labels"] == report["samples"]
    assert report["ratios"]["parameters"] == pytest.approx(
        report["teacher"]["parameters"] / report["student"]["parameters"], rel=1e-3
    )
    assert len(report["epochs"]) == 4
    assert max(e["student_accuracy"] for e in report["epochs"]) == pytest.approx(report["selected"]["value"], abs=1e-3)
    assert [(export["kind"], export["error"]) for export in report["exports"]] == [("onnx", None), ("pt2", None)]
    result = events[-1]["result"]
    assert result["student"] == {name: value for name, value in report["student"].items() if name != "per_class"}
    assert "specification" not in result

    model = lit_core.load(folder / "output")
    assert not model.training
    x, y = stripes()
    answers = model.classify(torch.from_numpy(x)[:, None])
    assert np.mean([int(a) == label for a, label in zip(answers, y, strict=True)]) >= 0.85
    assert model.classify([x[0]]) == answers[:1]


def weights(folder: Path) -> bytes:
    return (folder / "output" / "model.safetensors").read_bytes()


def test_a_drained_training_goes_on_to_the_same_bits(tmp_path: Path, teacher_file: Path) -> None:
    whole = job_folder(tmp_path / "whole", teacher_file)
    assert run(whole)[0] == 0
    broken = job_folder(tmp_path / "broken", teacher_file)
    process = ForkedTrainer(broken)
    for line in process.messages:
        last = json.loads(line)["type"]
        # SIGTERM lands at an arbitrary step of the next epoch.
        if last == "epoch":
            process.send_signal(signal.SIGTERM)
    assert (process.wait(), last) == (0, "drained")
    (broken / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 2}))
    assert run(broken)[0] == 0
    assert weights(broken) == weights(whole)
    report = json.loads((broken / "output" / "report.json").read_text())
    (resume,) = report["resumes"]
    assert resume["bit_identical"]


def failed(folder: Path) -> dict[str, Any]:
    code, events = run(folder)
    assert code == 1
    assert events[-1]["type"] == "failed"
    assert not any(e["type"] == "epoch" for e in events)
    error: dict[str, Any] = events[-1]["error"]
    return error


def test_a_training_that_diverges_says_so(tmp_path: Path, teacher_file: Path) -> None:
    lit = {"epochs": 3, "learning_rate": 100, "schedule": {"kind": "constant"}}
    changes = {"method": "at", "attention_weight": 1e6, "tau": 1000, "alpha": 0}
    folder = job_folder(tmp_path / "job", teacher_file, schedule={"lit": lit, "momentum": 0.999}, **changes)
    code, events = run(folder)
    assert code == 1
    assert events[-1]["error"]["type"] == "diverged"
    assert "at the learning rate 0.1" in events[-1]["error"]["detail"]
    assert "after the same at the learning rates 100, 10, 1: lower" in events[-1]["error"]["detail"]
    assert "lower schedule.lit.learning_rate" in events[-1]["error"]["detail"]


def test_cuda_without_a_gpu_is_a_typed_error(tmp_path: Path, teacher_file: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    folder = job_folder(tmp_path / "job", teacher_file)
    (folder / "run.json").write_text(json.dumps({"device": "cuda"}))
    assert failed(folder)["type"] == "device-unavailable"


LONG = {"lit": {"epochs": 1000}, "fine_tune": {"epochs": 0}}


def until_first_epoch(trainer: ForkedTrainer) -> None:
    for line in trainer.messages:
        if json.loads(line)["type"] == "epoch":
            return
    raise AssertionError("the trainer ended before its first epoch")


def deadline_in(seconds: float) -> str:
    return json.dumps({"deadline": boottime() + seconds}) + "\n"


def send_deadline(trainer: ForkedTrainer, seconds: float) -> None:
    trainer.deadlines.write(deadline_in(seconds))
    trainer.deadlines.flush()


def test_a_trainer_ends_when_its_deadline_passes(tmp_path: Path, teacher_file: Path) -> None:
    trainer = ForkedTrainer(job_folder(tmp_path / "job", teacher_file, schedule=LONG), "--supervised")
    send_deadline(trainer, 60)
    until_first_epoch(trainer)
    assert trainer.runs
    send_deadline(trainer, 0.5)
    assert trainer.wait(30) == TrainerExit.DEADLINE


def test_a_trainer_ends_when_its_supervisor_closes_the_pipe(tmp_path: Path, teacher_file: Path) -> None:
    trainer = ForkedTrainer(job_folder(tmp_path / "job", teacher_file, schedule=LONG), "--supervised")
    send_deadline(trainer, 60)
    until_first_epoch(trainer)
    trainer.deadlines.close()
    assert trainer.wait(30) == TrainerExit.DEADLINE


def test_a_trainer_dies_with_its_parent(tmp_path: Path, teacher_file: Path) -> None:
    folder = job_folder(tmp_path / "job", teacher_file, schedule=LONG)
    # The pipe's writing end is held open here, so that only the parent's death can end the trainer.
    reading, writing = os.pipe()
    os.write(writing, deadline_in(600).encode())
    answer, answering = FORK.Pipe(duplex=False)

    def parent() -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        child = FORK.Process(target=become_trainer, args=(folder, ["--supervised"], reading, nowhere))
        child.start()
        answering.send(child.pid)
        child.join()

    process = FORK.Process(target=parent)
    process.start()
    try:
        child = answer.recv()
        end = time.monotonic() + 60
        while not (folder / "checkpoint.pt").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert (folder / "checkpoint.pt").exists()
    finally:
        process.kill()
        process.join()
    while _lives(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(child)
    os.close(reading)
    os.close(writing)


def _lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_network_too_narrow_for_a_pruning_of_filters_fails_with_what_to_change(tmp_path: Path) -> None:
    torch.manual_seed(0)
    narrow = tmp_path / "narrow.safetensors"
    save_file(ResNet([3, 3, 3], 1, 1, 3, "A", "fc", "downsample").state_dict(), narrow)
    folder = job_folder(tmp_path / "job", narrow, method="prune", pruning="filters", student={"depth": 8})
    code, events = run(folder)
    assert code == TrainerExit.FAILED
    error = events[-1]["error"]
    assert (error["type"], error["field"]) == ("bad-specification", "pruning")
    assert "use weights, or ask for a larger student" in error["detail"]


def test_a_job_keeps_the_named_blocks(tmp_path: Path, teacher_file: Path) -> None:
    none = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
    folder = job_folder(tmp_path / "job", teacher_file, student={"kept": [[1], [0, 2], [0]]}, schedule=none)
    code, _ = run(folder)
    assert code == TrainerExit.DONE
    report = Report.model_validate_json((folder / "output" / "report.json").read_bytes())
    assert (report.selection.select, report.selection.kept) == (None, [[1], [0, 2], [0]])
    assert (report.student.depth, report.student.blocks) == (10, [1, 2, 1])
    teacher, student = load_file(teacher_file), load_file(folder / "output" / "model.safetensors")
    for own, named in (("layer1.0", "layer1.1"), ("layer2.0", "layer2.0"), ("layer2.1", "layer2.2")):
        key = "conv2.weight"
        torch.testing.assert_close(student[f"{own}.{key}"], teacher[f"{named}.{key}"])
    assert "layer1.1.conv2.weight" not in student
    # A student that is loaded again has the same blocks.
    assert lit_core.load(folder / "output").network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_named_block_that_must_stay_and_does_not_fails_the_first_attempt(tmp_path: Path, teacher_file: Path) -> None:
    """As with the inspection of an older version, which does not say which first blocks must stay."""
    assert inspected(teacher_file).first_blocks_stay == [False, True, True]
    folder = job_folder(tmp_path / "job", teacher_file, student={"kept": [[0], [0], [0]]})
    spec = json.loads((folder / "spec.json").read_text())
    spec["student"]["kept"] = [[1], [0], [2]]
    (folder / "spec.json").write_text(json.dumps(spec))
    error = failed(folder)
    assert (error["type"], error["field"]) == ("bad-specification", "student.kept.2")
    assert "keep block 0" in error["detail"]


@pytest.mark.parametrize(
    ("failure", "type", "field"),
    [
        (SpecError("method", "at needs representations"), "bad-specification", "method"),
        (NoSections("layers.2 was not run"), "bad-teacher", "teacher"),
    ],
)
def test_what_the_request_or_the_teacher_caused_has_a_type(failure: Exception, type: str, field: str) -> None:
    error = job_error(failure)
    assert error is not None
    assert (error.type, error.field) == (type, field)


def test_a_fault_of_the_program_has_none() -> None:
    assert job_error(ValueError("a fault")) is None
    assert job_error(RuntimeError("a fault")) is None
