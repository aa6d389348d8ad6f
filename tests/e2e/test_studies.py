"""Studies on real data, by several workers at once, one of which is killed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from jobs.database.connection import Database
from jobs.ledger import workers
from lit_client import Client
from lit_client.models import Job
from service.running import RunningService, own_environment
from tests.e2e.digits import QUICK, ROOT, SHORT, TEACHER
from tests.worker.bench import wait_for

LITC = str(Path(sys.executable).with_name("litc"))


@dataclass
class Service:
    """`litc serve` with its worker, and what another worker needs to join it."""

    url: str
    data: Path
    environment: dict[str, str]

    @contextmanager
    def another_worker(self) -> Iterator[subprocess.Popen[bytes]]:
        database = Database(self.environment["DATABASE_URL"], pool_size=1)

        def live() -> int:
            with database.session() as session:
                return len(workers.live(session, within_seconds=10))

        command = [LITC, "worker", "--devices", "cpu", "--no-with-inspect"]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment)
        try:
            wait_for(lambda: live() == 2, 60, "two workers")
            yield process
        finally:
            process.terminate()
            process.wait(60)
            database.close()


@pytest.fixture(scope="module")
def service(shared_service: RunningService) -> Service:
    data = shared_service.log.parent / "data"
    of_a_worker = {
        "LIT_THREADS": "1",
        "LIT_DISK_RESERVE_BYTES": "0",
        # It trains one or two short jobs.
        "LIT_WARM_TRAINER": "false",
        "LIT_LEASE_SECONDS": "6",
        "LIT_HOUSEKEEPING_SECONDS": "0.5",
        "DATABASE_URL": (data / "database-url").read_text(),
        "REDIS_URL": f"unix://{data}/valkey/valkey.sock",
    }
    return Service(shared_service.url, data, own_environment(data) | of_a_worker)


@pytest.fixture(scope="module")
def joined(service: Service) -> Iterator[subprocess.Popen[bytes]]:
    """`litc worker` beside the service's own worker."""
    with service.another_worker() as process:
        yield process


def cached_teachers(service: Service) -> set[Path]:
    return set((service.data / "cached-teachers").glob("*/used"))


def at_once(jobs: list[Job]) -> list[tuple[Job, Job]]:
    """The pairs of trials that ran at the same time on different workers."""
    return [
        (one, other)
        for i, one in enumerate(jobs)
        for other in jobs[:i]
        if one.worker.id != other.worker.id
        if max(one.started_at, other.started_at) < min(one.finished_at, other.finished_at)
    ]


def test_the_second_trial_reads_what_the_first_has_kept_of_the_teacher(service: Service) -> None:
    """It comes before the tests with another worker, so that the trials run one after the other."""
    kept_before = cached_teachers(service)
    with Client(service.url) as client:
        teacher = client.upload(TEACHER, "teacher")
        client.wait_inspection(teacher.id)
        job = {
            "teacher": teacher.id,
            "dataset": {"builtin": "digits", "train_samples": 200},
            "student": QUICK,
            "schedule": SHORT,
            "teacher_cache": {"views": 2},
            "device": "cpu",
        }
        study = client.create_study({"kind": "compare", "job": job, "methods": ["lit", "kd"]})
        done = client.wait_study(study.id, timeout=150)
        assert done.state == "succeeded", done.error
        jobs = sorted(client.jobs(study=study.id), key=lambda job: job.started_at)
    caches = [job.result["teacher_cache"] for job in jobs]
    # The first pass of each phase shows the first view: the first trial makes it in the LIT phase, and reads it in
    # fine-tuning. The second trial needs nothing else.
    assert [job.trial["arm"] for job in jobs] == ["lit", "kd"]
    assert [(cache["used"], cache["hit_rate"]) for cache in caches] == [(True, 0.5), (True, 1.0)]
    assert caches[0]["bytes"] == caches[1]["bytes"] > 0
    assert len(cached_teachers(service) - kept_before) == 1


def test_a_plan_shows_what_students_would_keep_and_one_of_them_keeps_it(service: Service, tmp_path: Path) -> None:
    """Before the tests with another worker, which would have to load torch for one of the two jobs."""
    environment = service.environment | {"LIT_URL": service.url, "COLUMNS": "200"}

    def litc(*words: str) -> str:
        done = subprocess.run(
            [LITC, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["--set", "dataset.train_samples=100"]
    shown = litc("plan", str(TEACHER), "--dataset", "digits", "--students", "3", "--repair", "--device", "cpu", *small)
    assert "accuracy; the teacher:" in shown
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {"plan.svg", "report.json"}
    report = json.loads((tmp_path / "plan" / "report.json").read_text())
    assert [sum(student["blocks"]) for student in report["students"]] == [17, 10, 3]
    [command] = [line.partition(": ")[2] for line in shown.splitlines() if line.startswith("To make one of them: ")]
    words = shlex.split(command)
    kept = [[int(index) for index in section.split(",")] for section in words[words.index("--kept") + 1].split("/")]
    [planned] = [student for student in report["students"] if student["kept"] == kept]

    one_step = ["--set", "schedule.steps_per_epoch=1"]
    litc(*words[1:], "--epochs", "1", "--fine-tune-epochs", "0", *one_step, "--set", "exports=[]", "--device", "cpu")
    made = json.loads((tmp_path / "student" / "report.json").read_text())
    assert made["selection"]["kept"] == kept
    assert (made["student"]["parameters"], made["student"]["flops"]) == (planned["parameters"], planned["flops"])
    for name in ("untrained", "repaired"):
        assert made["baselines"][name]["accuracy"]["val"] == planned[name]["accuracy"]["val"]


@pytest.mark.long
@pytest.mark.usefixtures("joined")
def test_a_search_on_two_workers_at_once(service: Service, tmp_path: Path) -> None:
    words = ["--dataset", "digits", "--depth", "8", "--epochs", "1", "--fine-tune-epochs", "1", "--device", "cpu"]
    words += ["--set", "dataset.train_samples=300"]
    grids = ["--taus", "2,6", "--alphas", "0.5,0.9", "--betas", "0.25,0.75"]
    command = [LITC, "study", "search", str(TEACHER), *words, *grids, "--output", str(tmp_path / "out"), "--json"]
    environment = service.environment | {"LIT_URL": service.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    study = json.loads(done.stdout)
    assert study["state"] == "succeeded"
    assert {path["path"].rsplit("/", 1)[1] for path in study["files"]} >= {"model.safetensors", "report.json"}

    with Client(service.url) as client:
        jobs = list(client.jobs(study=study["id"]))
        table = client.study_csv(study["id"])
    reached = {tuple(sorted(job.trial.items())): job.result["selected"]["value"] for job in jobs if job.trial}
    found = study["choice"]

    def value(**trial: object) -> float:
        return float(reached[tuple(sorted({**trial, "seed": 0}.items()))])

    # Of equals the first.
    tau = max((2.0, 6.0), key=lambda tau: value(method="kd", tau=tau, alpha=0.5))
    alpha = max((0.5, 0.9), key=lambda alpha: value(method="kd", tau=tau, alpha=alpha))
    beta = max((0.25, 0.75), key=lambda beta: value(method="lit", tau=tau, alpha=alpha, beta=beta))
    assert found == {"tau": tau, "alpha": alpha, "beta": beta}
    # The τ that won had the first α already.
    assert len(jobs) == 5
    assert {job.state for job in jobs} == {"succeeded"}
    assert len({job.worker.id for job in jobs}) == 2
    assert at_once(jobs)
    # No stage begins before the last one has ended.
    ends = max(job.finished_at for job in jobs if job.trial["method"] == "kd")
    assert min(job.created_at for job in jobs if job.trial["method"] == "lit") > ends
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["specification"]["beta"], report["student"]["depth"]) == (beta, 8)
    assert len(table.splitlines()) == 1 + 6


def test_a_comparison_in_which_a_worker_is_killed(service: Service, joined: subprocess.Popen[bytes]) -> None:
    with Client(service.url) as client:
        teacher = client.upload(TEACHER, "teacher")
        client.wait_inspection(teacher.id)
        job = {
            "teacher": teacher.id,
            "dataset": {"builtin": "digits"},
            "student": QUICK,
            "schedule": SHORT,
        }
        study = client.create_study(
            {"kind": "compare", "job": job | {"device": "cpu"}, "methods": ["lit", "kd", "hint"]}
        )

        pids = {child.pid for child in psutil.Process(joined.pid).children()}

        def taken() -> list[Job]:
            """The trial that the worker which joined has."""
            running = [job for job in client.jobs(study=study.id) if job.state == "running"]
            return [job for job in running if worker_of(job) in pids]

        found: list[Job] = []
        wait_for(lambda: found.extend(taken()) or found, 60, "a trial on the other worker")
        [victim] = found
        os.kill(worker_of(victim), signal.SIGKILL)
        done = client.wait_study(study.id, timeout=150)
        jobs = list(client.jobs(study=study.id))
    assert done.state == "succeeded", done.error
    assert len(jobs) == 3
    assert {job.state for job in jobs} == {"succeeded"}
    [lost] = [job for job in jobs if job.failures]
    assert (lost.id, lost.failures, lost.attempt) == (victim.id, 1, 2)
    assert done.table is not None
    assert [row["arm"] for row in done.table.rows] == ["lit", "kd", "hint"]
    assert [(row["succeeded"], row["failed"], row["pairs"]) for row in done.table.rows] == [(1, 0, 0)] + 2 * [(1, 0, 1)]
    assert done.choice is not None
    best = max(done.table.rows, key=lambda row: row["validation_mean"])
    assert done.choice["arm"] == best["arm"]


def worker_of(job: Job) -> int:
    """A worker's id holds its process id."""
    return int(job.worker.id.rsplit("-", 2)[1])
