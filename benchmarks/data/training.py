"""A job on many images, by the trainer itself, stopped after a few steps: its memory, and when the first step was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.data.images import CLASSES, make_archive
from benchmarks.data.memory import watched
from lit_core.networks.families import family_of
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_spec import Architecture, JobRequest, Phase, resolve
from lit_spec.trainer.folder import DATASET_FILE, RUN_FILE, SPEC_FILE, TEACHER_FILE
from lit_spec.trainer.messages import Progress
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.run import TrainerRun

CHECKOUT = Path(__file__).parents[2]
MIB = 1 << 20
SECONDS_OF_STEPS = 5.0
"""Of training after the first step."""
EPOCHS = 1000
"""More than there is time for."""
DEPTH, STUDENT_DEPTH, WIDTH = 14, 8, 4
"""Of a small ResNet, so that what is measured are the data."""


@dataclass(frozen=True)
class TrainRun:
    images: int
    decode_seconds: float
    first_step_seconds: float
    """From the start of the trainer until it has told its first step."""
    anonymous_mib: int
    """Of the trainer and its decoders together, at most."""
    before_data_mib: int
    """The same when the trainer has loaded torch and is about to read the networks and the data."""


def train(folder: Path, images: int, side: int, size: int, batch: int, workers: int) -> TrainRun:
    """`folder` becomes the job folder. Raises CalledProcessError if the trainer fails."""
    _make_job(folder, images, side, size, batch, workers)
    command = [sys.executable, "-m", "lit_core.trainer", str(folder)]
    started = time.perf_counter()
    with watched(command, CHECKOUT) as (trainer, watch):
        begun = decoded = first_step = 0.0
        before = 0
        for message in _progress(trainer):
            now = time.perf_counter() - started
            if message.phase == JobPhase.LOADING and not begun:
                begun, before = now, watch.peaks.anonymous
            elif message.phase != JobPhase.LOADING and not decoded:
                decoded = now
            if message.phase.value in {phase.value for phase in Phase} and message.step and not first_step:
                first_step = now
                time.sleep(SECONDS_OF_STEPS)
                trainer.send_signal(signal.SIGTERM)
        if trainer.wait() or not first_step:
            raise subprocess.CalledProcessError(trainer.returncode, command)
    seconds = round(decoded - begun, 2), round(first_step, 2)
    return TrainRun(images, *seconds, watch.peaks.anonymous // MIB, before // MIB)


def _progress(trainer: subprocess.Popen[str]) -> Iterator[Progress]:
    for line in trainer.stdout or ():
        if json.loads(line)["type"] == "progress":
            yield Progress.model_validate_json(line)


def _make_job(folder: Path, images: int, side: int, size: int, batch: int, workers: int) -> None:
    folder.mkdir()
    # Without labels, because nobody has taught the teacher, which a trainer would refuse.
    make_archive(folder / DATASET_FILE, images, side, labelled=False)
    torch.manual_seed(0)
    architecture = _architecture()
    network = family_of(architecture).build(architecture)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / TEACHER_FILE)
    request: dict[str, Any] = {
        "teacher": "upl_bench",
        "dataset": {"upload": "upl_bench", "size": [size, size], "mean": [0.5] * 3, "std": [0.25] * 3},
        "student": {"depth": STUDENT_DEPTH, "select": "even", "repair": False},
        "schedule": {"lit": {"epochs": EPOCHS}, "batch_size": batch},
        "alpha": 0,
        "exports": [],
    }
    spec = resolve(JobRequest.model_validate(request), inspect_teacher(read_teacher(folder / TEACHER_FILE)))
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    threads = min(workers, len(os.sched_getaffinity(0)))
    run = TrainerRun(device="cpu", threads=threads, data_store=folder / "store", data_store_bytes=1 << 40)
    (folder / RUN_FILE).write_text(run.model_dump_json())


def _architecture() -> Architecture:
    options: dict[str, int | str | bool] = {"width": WIDTH, "shortcut": "A", "head": "fc", "projection": "downsample"}
    blocks = [(DEPTH - 2) // 6] * 3
    return Architecture(family="resnet_cifar", depth=DEPTH, blocks=blocks, channels=3, classes=CLASSES, options=options)
