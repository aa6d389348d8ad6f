"""Real jobs of several processes through real workers: one result, and another attempt when a part of it dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load

from lit_spec.states import FINISHED_STATES
from tests.faults.machines import Machines
from tests.worker.bench import Bench, wait_for
from worker.training import supervisor
from worker.training.launching import TRAINER
from worker.training.metrics import TrainingMetrics
from worker.training.supervisor import Supervisor

REQUEST: dict[str, Any] = {
    "student": {"depth": 8, "select": "even"},
    "schedule": {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}, "batch_size": 64},
    "exports": [],
    "seed": 3,
}
LONGER = {
    **REQUEST,
    # At the usual rate of 0.1, differences of rounding would grow too much in so many steps.
    "schedule": {"lit": {"epochs": 6, "learning_rate": 0.01}, "fine_tune": {"epochs": 1}, "batch_size": 64},
}
SECONDS = 150.0


@pytest.fixture(autouse=True)
def quick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # No lease passes while a busy machine starts all processes of a job: here it is the launcher that sees who died.
    lasting = {"lease_seconds": 60.0, "join_seconds": 60.0}
    bench.settings = bench.settings.model_copy(update={"node_address": "127.0.0.1", **lasting})
    bench.settings.data_dir.mkdir(exist_ok=True)
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0)
    # Gloo would ask the host's name for its address, which a test machine need not know.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@contextmanager
def workers(
    bench: Bench, *names: str, devices: int = 1, metrics: TrainingMetrics | None = None
) -> Iterator[list[Supervisor]]:
    """Workers that claim again and again, as wake-ups make them."""
    with ExitStack() as stack:
        yield [stack.enter_context(bench.claiming(TRAINER, name, {"cpu": devices}, metrics)) for name in names]


def weights(bench: Bench, job_id: str) -> dict[str, torch.Tensor]:
    manifest = bench.row(job_id).manifest
    assert manifest is not None, bench.row(job_id).error
    [key] = [artifact["key"] for artifact in manifest if artifact["name"] == "model.safetensors"]
    with bench.storage.open(key) as file:
        return load(file.read())


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        error = float((tensor.double() - other[name].double()).norm())
        assert error <= 0.02 * float(tensor.double().norm()) + 1e-5, f"{name}: {error}"


def ended(bench: Bench, job_id: str) -> Any:
    wait_for(lambda: bench.row(job_id).state in FINISHED_STATES, SECONDS, "the end of the job")
    return bench.row(job_id)


def launchers() -> list[psutil.Process]:
    """Those that the workers of this process have started."""
    return [child for child in psutil.Process().children() if "lit_core.trainer.launch" in child.cmdline()]


@pytest.mark.long
def test_a_job_of_two_devices_or_nodes_has_the_result_of_one_process(bench: Bench, machines: Machines) -> None:
    teacher = machines.teacher()
    alone, devices, nodes, sharded = (
        bench.job(teacher=teacher, **REQUEST, **more)
        for more in ({}, {"devices": 2}, {"nodes": 2}, {"nodes": 2, "shard_teacher": True})
    )
    with workers(bench, "worker-a", "worker-b", devices=2):
        for job in (alone, devices, nodes, sharded):
            row = ended(bench, job)
            assert (row.state, row.attempt) == ("succeeded", 1), row.error
    for job in (devices, nodes, sharded):
        assert_alike(weights(bench, alone), weights(bench, job))
    assert "rank 1: " in bench.text(devices, 1, "trainer.log")
    assert "rank 1: " in bench.text(nodes, 1, "trainer-node-1.log")
    [joined] = bench.events(nodes, "joined")
    [claimed] = bench.events(nodes, "claimed")
    assert {joined["worker"], claimed["worker"]} == {"worker-a", "worker-b"}
    assert len(bench.events(nodes, "epoch")) == 3


@pytest.mark.long
def test_a_killed_rank_costs_an_attempt_and_the_job_goes_on(bench: Bench, machines: Machines) -> None:
    job = bench.job(teacher=machines.teacher(), devices=2, **LONGER)
    with workers(bench, "worker-a", devices=2):
        wait_for(lambda: bench.row(job).checkpoint is not None, SECONDS, "a checkpoint")
        [launcher] = launchers()
        ranks = {int(child.environ()["RANK"]): child for child in launcher.children()}
        ranks[1].kill()
        row = ended(bench, job)
    assert (row.state, row.attempt, row.failures) == ("succeeded", 2, 1), row.error
    [lost] = bench.events(job, "lost")
    assert lost["error"]["type"] == "trainer-crashed"
    assert "rank 1 ended with SIGKILL" in lost["error"]["detail"]
    assert [event["resumes"] for event in bench.events(job, "claimed")] == [False, True]


def test_when_a_joined_workers_ranks_are_killed_the_job_goes_on_to_the_result_of_one_process(
    bench: Bench, machines: Machines
) -> None:
    teacher = machines.teacher()
    metrics = TrainingMetrics()
    alone, job = (bench.job(teacher=teacher, **LONGER, **more) for more in ({}, {"nodes": 2}))
    with workers(bench, "worker-a", "worker-b", metrics=metrics):
        wait_for(lambda: bench.row(job).checkpoint is not None, SECONDS, "a checkpoint")
        [guest] = [one for one in launchers() if one.cmdline()[one.cmdline().index("--node") + 1] == "1"]
        guest.kill()
        row = ended(bench, job)
    assert (row.state, row.attempt, row.failures) == ("succeeded", 2, 1), row.error
    assert bench.row(alone).state == "succeeded", bench.row(alone).error
    assert_alike(weights(bench, alone), weights(bench, job))
    assert "rank 1: " in bench.text(job, 2, "trainer-node-1.log")
    assert len(bench.events(job, "joined")) == 2
    for joined, claimed in zip(bench.events(job, "joined"), bench.events(job, "claimed"), strict=True):
        assert {joined["worker"], claimed["worker"]} == {"worker-a", "worker-b"}
    assert len(bench.events(job, "epoch")) == 7
    # That of the job of one process, and in each of the two attempts those of both workers.
    assert metrics.registry.get_sample_value("lit_trainer_starts_total", {"device": "cpu"}) == 1 + 2 * 2
    assert metrics.registry.get_sample_value("lit_prepare_seconds_count") == 1 + 2 * 2


@pytest.mark.long
def test_a_worker_that_is_told_to_stop_gives_the_job_back_for_all(bench: Bench, machines: Machines) -> None:
    job = bench.job(teacher=machines.teacher(), nodes=2, **LONGER)
    with workers(bench, "worker-a", "worker-b") as both:
        wait_for(lambda: bench.row(job).checkpoint is not None, SECONDS, "a checkpoint")
        [joined] = bench.events(job, "joined")
        guest = both[["worker-a", "worker-b"].index(joined["worker"])]
        guest.drain()
        wait_for(lambda: bench.events(job, "released"), SECONDS, "the job's release")
        with workers(bench, "worker-c"):
            row = ended(bench, job)
    assert (row.state, row.attempt, row.failures) == ("succeeded", 2, 0), row.error


def test_when_too_few_workers_come_the_job_says_so(bench: Bench, machines: Machines) -> None:
    bench.settings = bench.settings.model_copy(update={"join_seconds": 1.0})
    job = bench.job(teacher=machines.teacher(), nodes=3, max_attempts=1, **REQUEST)
    with workers(bench, "worker-a"):
        row = ended(bench, job)
    assert row.state == "failed"
    assert (row.error["type"], row.error["field"]) == ("too-few-workers", "nodes")
    assert "only 1 of the 3 workers" in row.error["detail"]
