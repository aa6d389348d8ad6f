"""`make evidence` in short: every cell is a request that the service takes, and the page tells what the runs say."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from benchmarks.evidence.data import DATASETS, labelled, write_texts
from benchmarks.evidence.experiments import ARMS, EXPERIMENTS, RATES, Experiment, at_rate
from benchmarks.evidence.page import page
from benchmarks.evidence.run import keep, read_runs
from benchmarks.evidence.teachers import DISCRIMINATOR, RECIPES, STARGAN, stargan
from benchmarks.intervals import interval
from lit_core.networks.families import FAMILIES, family_of
from lit_spec import Architecture, Inspection, JobRequest, JobSpec, Select, StudentOption, merged, resolve
from lit_spec.networks.architecture import TeacherFormat

CELLS = [pytest.param(e, arm, id=f"{e.name}/{arm}") for e in EXPERIMENTS for arm in e.arms]


def teacher_of(experiment: Experiment) -> Architecture:
    if experiment.teacher == STARGAN:
        return architecture_of(stargan()[0], "stargan")
    return RECIPES["mnist5k" if experiment.teacher == "digits" else experiment.teacher].architecture


def architecture_of(network: nn.Module, family: str) -> Architecture:
    return FAMILIES[family].read({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})


def inspection_of(architecture: Architecture) -> Inspection:
    students = [
        StudentOption(depth=depth, blocks=blocks, parameters=sum(blocks), parameters_ratio=9 / sum(blocks))
        for depth, blocks in family_of(architecture).students(architecture)
    ]
    return Inspection(format=TeacherFormat.SAFETENSORS, architecture=architecture, parameters=9, students=students)


def specification(experiment: Experiment, arm: str) -> JobSpec:
    sources: dict[str, Any] = {"teacher": "upl_t", "dataset": {"upload": "upl_d"}}
    discriminator = None
    if experiment.discriminator is not None:
        sources["discriminator"] = "upl_c"
        discriminator = inspection_of(architecture_of(stargan()[1], DISCRIMINATOR.replace("-", "_")))
    patch = merged(merged(experiment.request, sources), experiment.arm(arm))
    request = JobRequest.model_validate(merged(patch, {"seed": 1}))
    return resolve(request, inspection_of(teacher_of(experiment)), discriminator)


@pytest.mark.parametrize(("experiment", "arm"), CELLS)
def test_every_cell_is_a_job(experiment: Experiment, arm: str) -> None:
    spec = specification(experiment, arm)
    assert spec.method.value == ARMS[arm].get("method", "lit")
    if spec.student.blocks is None:
        # A job that chooses its blocks when it runs.
        assert (spec.student.select, spec.student.depth) == (Select.RECOVER, 14)
    else:
        assert sum(spec.student.blocks) < sum(spec.teacher.architecture.blocks)
    assert experiment.teacher in {"digits", STARGAN, *RECIPES}
    assert experiment.dataset in {"digits", *DATASETS}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_all_arms_of_an_experiment_take_the_same_steps(experiment: Experiment) -> None:
    specs = [specification(experiment, arm) for arm in experiment.arms]
    # Generators are compared with and without what follows.
    compared = [s.schedule.lit.epochs + s.schedule.fine_tune.epochs * (experiment.discriminator is None) for s in specs]
    assert len(set(compared)) == 1
    assert len({spec.schedule.steps_per_epoch for spec in specs}) == 1
    assert len({(spec.dataset.train_samples, spec.dataset.labels, spec.student.depth) for spec in specs}) == 1


def test_a_learning_rate_reaches_both_phases() -> None:
    patch = at_rate(RATES[-1])
    assert patch["schedule"]["lit"]["learning_rate"] == RATES[-1]
    assert patch["schedule"]["fine_tune"]["learning_rate"] == pytest.approx(RATES[-1] / 10, rel=1e-4)


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
        "curve": {"student_accuracy": [90.0, accuracy]},
        "specification": {"schedule": {"lit": {"learning_rate": 0.1}}},
    }


def test_kept_runs_are_in_order_and_of_today(tmp_path: Path) -> None:
    names = [experiment.name for experiment in EXPERIMENTS]
    results = tmp_path / "evidence.json"
    old = [{**run("kd", 0, 95.0), "experiment": name} for name in (names[1], names[0], "gone")]
    old += [{**run("gone", 0, 95.0), "experiment": names[1]}, run("lit", 7, 95.0)]
    results.write_text(json.dumps({"runs": old}))
    keep("digits", [run("kd", 1, 96.0), run("lit", 1, 96.0), run("lit", 0, 96.0)], results)
    found = [(kept["experiment"], kept["arm"], kept["seed"]) for kept in read_runs(results)]
    assert found == [("digits", "lit", 0), ("digits", "lit", 1), ("digits", "kd", 1), (names[1], "kd", 0)]


def test_the_page_pairs_runs_by_their_seeds() -> None:
    runs = [run("lit", s, a) for s, a in ((0, 96.0), (1, 97.0), (2, 98.0))]
    runs += [run("kd", s, a) for s, a in ((2, 97.0), (0, 95.0), (1, 95.0))]
    text = page({"runs": runs})
    assert "| kd | 95.67 ± 1.15 |  | 100 | 0.1 | 2 | 3 |" in text
    # Differences of 1, 2 and 1: mean 4/3, standard error 1/3, and Student's t with 2 degrees of freedom is 4.303.
    assert "| lit | 97.00 ± 1.00 | +1.33 (-0.10 to +2.77) | 100 | 0.1 | 2 | 3 |" in text
    assert "| digits | 98.00 | 95.67 | +1.33 (-0.10 to +2.77) |\n" in text
    # With all three the same, the interval excludes zero.
    assert "**+1.00 (+1.00 to +1.00)**" in page(
        {"runs": [run("lit", s, 96.0) for s in range(3)] + [run("kd", s, 95.0) for s in range(3)]}
    )
    assert interval([-1.0, -2.0, -1.0]) == pytest.approx((-4 / 3 - 4.3027 / 3, -4 / 3 + 4.3027 / 3), abs=1e-3)


def test_the_page_shows_how_near_generators_come() -> None:
    made = {"psnr": 30.0, "ssim": 0.9, "l1": 0.01, "accuracy": None, "teacher_accuracy": None}
    curve = {"psnr": [20.0, 30.0], "ir_loss": [0.5, 0.1]}
    runs = [run("ir-only", s, 0) | made | {"experiment": "stargan", "curve": curve} for s in (0, 1)]
    runs[0]["picture"] = "evidence/stargan-ir-only.png"
    text = page({"runs": runs})
    assert (
        "| ir-only | 30.00 ± 0.00 | 0.9000 ± 0.0000 | 0.0100 ± 0.0000 | 0.5000 | 0.1000 | 5.0 | 100 | 2 | 2 |" in text
    )
    assert "![Translations of ir-only](evidence/stargan-ir-only.png)" in text


def test_a_reviews_sentences_stay_in_one_split_and_neutral_ones_are_left_out(tmp_path: Path) -> None:
    rows = [
        f"{review}_{sentence}\t{sentence - 1}\tof {review}, with" for review in range(1, 21) for sentence in range(3)
    ]
    splits = labelled("\n".join(rows))
    assert {name: len(found) for name, found in splits.items()} == {"train": 24, "val": 8, "test": 8}
    assert splits["val"][:2] == [("negative", "of 1, with"), ("positive", "of 1, with")]
    write_texts(tmp_path / "texts.zip", splits)
    with zipfile.ZipFile(tmp_path / "texts.zip") as archive:
        assert archive.namelist() == ["train.csv", "val.csv", "test.csv"]
        read = list(csv.reader(io.StringIO(archive.read("test.csv").decode())))
    assert [tuple(row) for row in read] == splits["test"]
