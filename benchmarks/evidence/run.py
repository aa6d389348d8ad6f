"""`make evidence`: every experiment as a compare study of the service itself, and what came of it.

Writes docs/evidence.json after each study, and docs/evidence.md from it. What has been run stays in `.evidence`, so
the command goes on where it was stopped. `ONLY=experiment` runs one experiment, `ONLY=experiment/arm/seed` runs one
cell again as a job of its own and prints its row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.evidence.data import dataset_file
from benchmarks.evidence.experiments import EXPERIMENTS, Experiment
from benchmarks.evidence.page import write_page
from benchmarks.evidence.teachers import teacher_file
from benchmarks.stopping import exit_on_sigterm
from lit_client import Client
from lit_client.models import Job, Study
from lit_spec import merged
from service.running import running_service

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".evidence"
RESULTS = ROOT / "docs/evidence.json"
PICTURES = ROOT / "docs/evidence"
TRANSLATION = ("psnr", "ssim", "l1")
WORKERS = 2
CURVES = ("student_accuracy", "agreement", "psnr", "ir_loss")

Run = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.run", description=__doc__)
    parser.add_argument("--only", default="", help="experiment, or experiment/arm/seed")
    arguments = parser.parse_args()
    name, arm, seed = [*arguments.only.split("/"), "", "", ""][:3]
    chosen = [experiment for experiment in EXPERIMENTS if name in ("", experiment.name)]
    if not chosen:
        parser.error(f"{name} is no experiment: choose one of {', '.join(e.name for e in EXPERIMENTS)}")
    with evidence_service() as client:
        if arm:
            job = run_cell(client, chosen[0], arm, int(seed or 0))
            print(json.dumps(row(client, chosen[0], arm, job)))
            return 0
        for experiment in chosen:
            runs = run_experiment(client, experiment)
            keep(experiment.name, runs)
            print(f"{experiment.name}: {len(runs)} runs", flush=True)
    write_page(ROOT / "docs")
    print(json.dumps({"experiments": len(chosen), "runs": len(read_runs())}))
    return 0


@contextmanager
def evidence_service() -> Iterator[Client]:
    """A client of the service that makes the evidence: two workers of one thread, its data kept between runs."""
    service = running_service(FOLDER / "service", "--workers", str(WORKERS), environment={"LIT_THREADS": "1"})
    with service as running, Client(running.url) as client:
        yield client


def run_experiment(client: Client, experiment: Experiment) -> list[Run]:
    """All cells of an experiment; a study that an earlier call began goes on."""
    study = run_study(client, experiment.name, study_request(client, experiment))
    return [row(client, experiment, str((job.trial or {})["arm"]), job) for job in succeeded(client, study)]


def run_study(client: Client, name: str, request: dict[str, Any]) -> Study:
    """A study that has succeeded, made by this call or gone on with from an earlier one."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
    # The same key gives the study of the first call, whatever became of it.
    key = f"evidence-{digest}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    study = client.create_study({**request, "name": f"{name}, {digest}"}, idempotency_key=key)
    if study.state in ("failed", "cancelled"):
        study = client.resume_study(study.id)
    study = client.wait_study(study.id)
    if study.state != "succeeded":
        raise SystemExit(f"{name}: {study.state}: {study.error}")
    return study


def succeeded(client: Client, study: Study) -> list[Job]:
    return [job for job in client.jobs(study=study.id) if job.state == "succeeded"]


def study_request(client: Client, experiment: Experiment) -> dict[str, Any]:
    arms = [{"name": name, **experiment.arm(name)} for name in experiment.arms]
    job = merged(experiment.request, sources(client, experiment))
    return {"kind": "compare", "job": job, "methods": arms, "seeds": list(range(experiment.seeds))}


def run_cell(client: Client, experiment: Experiment, arm: str, seed: int) -> Job:
    if arm not in experiment.arms:
        raise SystemExit(f"{arm} is no arm of {experiment.name}: choose one of {', '.join(experiment.arms)}")
    patch = merged(merged(experiment.request, sources(client, experiment)), experiment.arm(arm))
    return client.wait_job(client.create_job(merged(patch, {"seed": seed})).id)


def sources(client: Client, experiment: Experiment) -> dict[str, Any]:
    """Teacher, discriminator and data as uploads; what is there already is not sent again."""

    def data(name: str) -> Path:
        return dataset_file(name, FOLDER / "data")

    def network(name: str) -> str:
        upload = client.upload(teacher_file(name, FOLDER / "teachers", data), "teacher").id
        client.wait_inspection(upload)
        return upload

    found: dict[str, Any] = {"teacher": network(experiment.teacher), "dataset": {"builtin": "digits"}}
    if experiment.discriminator is not None:
        found["discriminator"] = network(experiment.discriminator)
    if experiment.dataset != "digits":
        found["dataset"] = {"upload": client.upload(data(experiment.dataset), "dataset").id}
    return found


def row(client: Client, experiment: Experiment, arm: str, job: Job) -> Run:
    """One run as evidence.json has it."""
    if job.result is None:
        raise SystemExit(f"{experiment.name}/{arm}: {job.id} is {job.state}: {job.error}")
    result = job.result
    student, teacher = result["student"], result["teacher"]
    translates = "psnr" in student
    return {
        "experiment": experiment.name,
        "arm": arm,
        "seed": result["seed"],
        "accuracy": None if translates else student["accuracy"]["test"],
        "teacher_accuracy": None if translates else teacher["accuracy"]["test"],
        **({name: student[name]["test"] for name in (TRANSLATION if translates else ("agreement",))}),
        "parameters": student["parameters"],
        "teacher_parameters": teacher["parameters"],
        "seconds": _seconds(job),
        "curve": curve(client, job),
        **({"picture": picture(client, experiment, arm, job)} if translates and result["seed"] == 0 else {}),
        "specification": job.spec,
    }


def curve(client: Client, job: Job) -> dict[str, list[float]]:
    """By name what was measured after each epoch, of both phases: on the validation split, and the training's IR loss,
    of the first phase alone."""
    by_name: dict[str, list[float]] = {}
    for metric in client.metrics(job.id):
        if metric.name in CURVES and metric.value is not None:
            by_name.setdefault(metric.name, []).append(round(metric.value, 6))
    return by_name


def picture(client: Client, experiment: Experiment, arm: str, job: Job) -> str:
    """Fetched into docs/evidence; its path as the page links it."""
    with tempfile.TemporaryDirectory() as folder:
        (file,) = client.download(job.id, folder, ["translations.png"])
        target = PICTURES / f"{experiment.name}-{arm}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file.path, target)
    return f"evidence/{target.name}"


def _seconds(job: Job) -> float | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return round((job.finished_at - job.started_at).total_seconds(), 1)


def read_runs(results: Path = RESULTS) -> list[Run]:
    runs: list[Run] = json.loads(results.read_text())["runs"] if results.exists() else []
    return runs


def keep(experiment: str, runs: Iterable[Run], results: Path = RESULTS) -> None:
    """Replace an experiment's runs in docs/evidence.json, in the order of the experiments. What is no experiment or no
    arm any more is left out."""
    order = [(known.name, arm) for known in EXPERIMENTS for arm in known.arms]
    others = (run for run in read_runs(results) if run["experiment"] != experiment)
    everything = [run for run in (*others, *runs) if (run["experiment"], run["arm"]) in order]
    everything.sort(key=lambda run: (order.index((run["experiment"], run["arm"])), run["seed"]))
    lines = ",\n".join(json.dumps(run) for run in everything)
    results.write_text(f'{{"runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
