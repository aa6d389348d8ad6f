"""A trainer that is killed twice, anywhere, leaves no trace in the weights."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import Any

import pytest

from tests.faults.machines import Machines, wait_for_epochs
from tests.worker.bench import Bench, wait_for

REQUEST: dict[str, Any] = {
    "student": {"depth": 8, "select": "even"},
    "schedule": {"lit": {"epochs": 3}, "fine_tune": {"epochs": 2}, "batch_size": 32},
    "exports": [],
    "seed": 3,
}
EPOCHS = 5


@pytest.mark.long
def test_two_kills_at_random_epochs_leave_the_weights_bit_identical(bench: Bench, machines: Machines) -> None:
    teacher = machines.teacher()
    worker = machines.start_worker()
    unbroken = bench.job(teacher=teacher, **REQUEST)
    wait_for(lambda: bench.row(unbroken).state == "succeeded", 90)

    seed = random.SystemRandom().randrange(1 << 30)
    print(f"epochs drawn with the seed {seed}")
    drawn = random.Random(seed)
    first = drawn.randint(0, EPOCHS - 3)
    second = drawn.randint(first + 1, EPOCHS - 2)
    broken = bench.job(teacher=teacher, **REQUEST)
    for epoch in (first, second):
        trainer = machines.trainer_of(worker)
        wait_for_epochs(bench, broken, epoch)
        os.kill(trainer, signal.SIGKILL)
        wait_for(lambda trainer=trainer: trainer not in machines.trainers(), 10)
    wait_for(lambda: bench.row(broken).state not in {"queued", "running"}, 120)

    job = bench.row(broken)
    assert (job.state, job.attempt, job.failures) == ("succeeded", 3, 2), job.error
    lost = bench.events(broken, "lost")
    assert [entry["error"]["type"] for entry in lost] == ["trainer-crashed", "trainer-crashed"]
    assert "SIGKILL" in lost[0]["error"]["detail"]
    assert weights(bench, broken) == weights(bench, unbroken)
    # Every epoch is there once, with the numbers of the unbroken run.
    assert losses(bench, broken) == losses(bench, unbroken)
    assert len({(phase, epoch) for phase, epoch, _ in losses(bench, broken)}) == EPOCHS
    report = json.loads(read(bench, broken, "report.json"))
    assert report["student"]["accuracy"] == json.loads(read(bench, unbroken, "report.json"))["student"]["accuracy"]


def weights(bench: Bench, job_id: str) -> bytes:
    return read(bench, job_id, "model.safetensors")


def read(bench: Bench, job_id: str, name: str) -> bytes:
    manifest = bench.row(job_id).manifest
    assert manifest is not None
    [artifact] = [artifact for artifact in manifest if artifact["name"] == name]
    with bench.storage.open(artifact["key"]) as file:
        return file.read()


def losses(bench: Bench, job_id: str) -> dict[tuple[str, int, str], float]:
    return {key: value for key, value in bench.metrics(job_id).items() if key[2] != "seconds"}
