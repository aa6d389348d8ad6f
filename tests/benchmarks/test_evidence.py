"""`make evidence` in short: every cell is a request that the service takes, and the page tells what the runs say."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.evidence.data import DATASETS
from benchmarks.evidence.experiments import ARMS, EXPERIMENTS, RATES, Experiment, at_rate
from benchmarks.evidence.page import interval, page
from benchmarks.evidence.teachers import RECIPES
from lit_core.spec import Inspection, JobRequest, JobSpec, StudentOption, merged, resolve

CELLS = [pytest.param(e, arm, id=f"{e.name}/{arm}") for e in EXPERIMENTS for arm in e.arms]


def specification(experiment: Experiment, arm: str) -> JobSpec:
    sources = {"teacher": "upl_t", "dataset": {"builtin": "digits"}}
    request = merged(merged(merged(experiment.request, sources), experiment.arm(arm)), {"seed": 1})
    teacher = RECIPES["mnist5k"].architecture
    students = [
        StudentOption(depth=6 * n + 2, blocks=[n] * 3, parameters=n, parameters_ratio=6 / n) for n in range(1, 7)
    ]
    inspection = Inspection(format="safetensors", architecture=teacher, parameters=6, students=students)
    return resolve(JobRequest.model_validate(request), inspection)


@pytest.mark.parametrize(("experiment", "arm"), CELLS)
def test_every_cell_is_a_job(experiment: Experiment, arm: str) -> None:
    spec = specification(experiment, arm)
    assert spec.method.value == ARMS[arm]["method"]
    assert experiment.teacher in {"digits", *RECIPES}
    assert experiment.dataset in {"digits", *DATASETS}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_all_arms_of_an_experiment_take_the_same_steps(experiment: Experiment) -> None:
    specs = [specification(experiment, arm) for arm in experiment.arms]
    epochs = {spec.schedule.lit.epochs + spec.schedule.fine_tune.epochs for spec in specs}
    assert len(epochs) == 1
    assert len({spec.schedule.steps_per_epoch for spec in specs}) == 1
    assert len({(spec.dataset.train_samples, spec.dataset.labels, spec.student.depth) for spec in specs}) == 1


def test_a_learning_rate_reaches_both_phases() -> None:
    patch = at_rate(RATES[-1])
    assert patch["schedule"]["lit"]["learning_rate"] == RATES[-1]
    assert patch["schedule"]["fine_tune"]["learning_rate"] == pytest.approx(RATES[-1] / 3, rel=1e-4)


def run(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {
        "experiment": "digits",
        "arm": arm,
        "seed": seed,
        "accuracy": accuracy,
        "teacher_accuracy": 98.0,
        "parameters": 100,
        "teacher_parameters": 300,
        "seconds": 2.0,
        "curve": [90.0, accuracy],
        "specification": {"schedule": {"lit": {"learning_rate": 0.1}}},
    }


def test_the_page_pairs_runs_by_their_seeds() -> None:
    runs = [run("lit", s, a) for s, a in ((0, 96.0), (1, 97.0), (2, 98.0))]
    runs += [run("kd", s, a) for s, a in ((2, 97.0), (0, 95.0), (1, 95.0))]
    text = page({"runs": runs})
    assert "| lit | 97.00 ± 1.00 |  | 100 | 0.1 | 2 | 3 |" in text
    # Differences of -1, -2 and -1: mean -4/3, standard error 1/3, and Student's t with 2 degrees of freedom is 4.303.
    assert "| kd | 95.67 ± 1.15 | -1.33 (-2.77 to +0.10) | 100 | 0.1 | 2 | 3 |" in text
    assert interval([-1.0, -2.0, -1.0]) == pytest.approx((-4 / 3 - 4.3027 / 3, -4 / 3 + 4.3027 / 3), abs=1e-3)
