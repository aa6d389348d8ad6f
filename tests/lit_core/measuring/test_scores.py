"""What is counted in a classifier's answers, against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest

from lit_core.data import Interface, load_dataset
from lit_core.measuring import scores
from lit_core.measuring.cost import count_parameters
from lit_core.measuring.scores import Prediction, Skill, calibration_error, chance, per_class, skill, top1, top5
from lit_core.networks.student import build_student
from lit_core.networks.teacher import build_teacher, inspect_teacher, read_teacher
from lit_core.tasks.classification import Classification
from lit_spec import DatasetRequest, JobRequest, Split, resolve
from lit_spec.trainer.report import Measures

TEACHER = Path(__file__).parents[3] / "examples/digits/teacher.safetensors"


def certain(*probabilities: tuple[float, ...], labels: list[int]) -> Prediction:
    return Prediction(torch.tensor(probabilities).log(), torch.tensor(labels))


def test_top5_counts_the_label_among_five() -> None:
    logits = torch.arange(7.0).repeat(7, 1)  # the more probable, the larger the class's number
    prediction = Prediction(logits, torch.arange(7))
    assert top5(prediction) == pytest.approx(100 * 5 / 7)
    assert top1(prediction) == pytest.approx(100 / 7)


def test_top5_of_few_classes_is_none() -> None:
    assert top5(Prediction(torch.eye(5), torch.arange(5))) is None
    assert top5(Prediction(torch.eye(6), torch.arange(6))) == 100


def test_each_class_has_its_own_accuracy() -> None:
    prediction = certain((0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.6, 0.3, 0.1), (0.2, 0.3, 0.5), labels=[0, 0, 0, 1])
    assert per_class(prediction, ["a", "b", "c"]) == {"a": pytest.approx(200 / 3), "b": 0, "c": None}


def test_calibration_error_is_the_distance_of_confidence_and_accuracy() -> None:
    # Answers of probability 0.75, half of them right; answers of probability 0.95, all right.
    rows = [(0.75, 0.25)] * 4 + [(0.05, 0.95)] * 4
    prediction = certain(*rows, labels=[0, 0, 1, 1, 1, 1, 1, 1])
    assert calibration_error(prediction) == pytest.approx(100 * (0.5 * 0.25 + 0.5 * 0.05), abs=1e-4)
    even = certain(*[(0.75, 0.25)] * 4, labels=[0, 0, 0, 1])
    assert calibration_error(even) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("samples", "classes"), [(500, 10), (7, 2), (1, 3)])
def test_calibration_error_is_that_of_torchmetrics(samples: int, classes: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    chance = torch.Generator().manual_seed(samples)
    logits = 3 * torch.randn(samples, classes, generator=chance)
    labels = torch.randint(classes, (samples,), generator=chance)
    theirs = multiclass_calibration_error(logits.softmax(dim=1), labels, classes, n_bins=15)
    assert calibration_error(Prediction(logits, labels)) == pytest.approx(100 * float(theirs), abs=1e-4)


def test_calibration_error_has_fifteen_bins() -> None:
    # 0.61 and 0.68 lie in one of ten bins, where the errors cancel, but in two of fifteen.
    prediction = certain((0.61, 0.39), (0.68, 0.32), labels=[0, 1])
    assert calibration_error(prediction) == pytest.approx(50 * (0.39 + 0.68), abs=1e-4)


def test_a_single_class_is_scored_too() -> None:
    assert calibration_error(Prediction(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))) == 0


def answered(answers: list[int], labels: list[int], classes: int) -> Prediction:
    return Prediction(torch.nn.functional.one_hot(torch.tensor(answers), classes).float(), torch.tensor(labels))


def test_chance_counts_what_is_asked_and_what_is_answered() -> None:
    assert chance(answered([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2], 3)) == pytest.approx(100 / 3)
    # Whoever always gives the most frequent answer is as good as chance.
    assert chance(answered([0] * 10, [0] * 9 + [1], 2)) == pytest.approx(90)
    assert chance(answered([1] * 10, [0] * 9 + [1], 2)) == pytest.approx(10)


@pytest.mark.parametrize(
    ("answers", "labels", "classes", "expected"),
    [
        pytest.param([0, 1, 0, 1, 0], [0, 1, 0, 0, 1], 2, Skill.UNCERTAIN, id="3-of-5-of-two-classes"),
        pytest.param([0, 1, 2, 4, 3], [0, 1, 2, 3, 4], 10, Skill.UNCERTAIN, id="3-of-5-of-ten-classes"),
        pytest.param([0, 1, 2, 3, 5], [0, 1, 2, 3, 4], 10, Skill.ABOVE_CHANCE, id="4-of-5-of-ten-classes"),
        pytest.param([1, 2, 3, 4, 0], [0, 1, 2, 3, 4], 10, Skill.UNCERTAIN, id="0-of-5-of-ten-classes"),
        pytest.param([1, 0, 1, 0, 1], [0, 1, 0, 1, 0], 2, Skill.AT_CHANCE, id="two-classes-the-wrong-way-round"),
        pytest.param([1], [0], 2, Skill.UNCERTAIN, id="one-sample"),
        pytest.param([*range(4), *range(5, 51)], [*range(50)], 1000, Skill.ABOVE_CHANCE, id="4-of-50-of-1000-classes"),
        pytest.param([*range(1, 51)], [*range(50)], 1000, Skill.AT_CHANCE, id="0-of-50-of-1000-classes"),
        pytest.param([3] * 9800 + [5] * 200, [3] * 10_000, 10, Skill.UNCERTAIN, id="labels-of-one-class"),
        pytest.param([7] * 800 + [*range(200)], [7] * 990 + [2] * 10, 1000, Skill.UNCERTAIN, id="almost-one-class"),
        pytest.param([0] * 1000, [0] * 900 + [1] * 100, 2, Skill.UNCERTAIN, id="always-the-most-frequent"),
        pytest.param([1] * 1000, [0] * 900 + [1] * 100, 2, Skill.AT_CHANCE, id="always-the-least-frequent"),
        pytest.param([0] * 5000, [0] * 3500 + [1] * 1500, 2, Skill.AT_CHANCE, id="enough-samples-of-both-classes"),
        pytest.param([0] * 5000, [0] * 2500 + [1] * 2500, 10, Skill.AT_CHANCE, id="always-one-of-two-of-ten-classes"),
        pytest.param([0] * 9790 + [1] * 210, [0] * 9980 + [1] * 20, 2, Skill.ABOVE_CHANCE, id="good-and-unbalanced"),
        pytest.param(
            [0] * 890 + [1] * 10 + [1] * 60 + [0] * 40, [0] * 900 + [1] * 100, 2, Skill.ABOVE_CHANCE, id="unbalanced"
        ),
        pytest.param([*range(10)] * 100, sorted([*range(10)] * 100), 10, Skill.AT_CHANCE, id="unrelated"),
    ],
)
def test_a_teacher_is_at_chance_only_where_the_samples_show_it(
    answers: list[int], labels: list[int], classes: int, expected: Skill
) -> None:
    assert skill(answered(answers, labels, classes)) == expected


@pytest.mark.parametrize("samples", [1, 7, 300])
@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.98, 1.0])
def test_the_binomial_test_is_scipys(samples: int, probability: float) -> None:
    for count in {0, 1, samples // 3, samples - 1, samples}:
        expected = binomtest(count, samples, probability, alternative="greater").pvalue
        assert scores._at_least(count, samples, probability) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_no_heavy_library_is_loaded_for_it() -> None:
    script = (
        "import sys, torch; from lit_core.measuring.scores import Prediction, skill; "
        "skill(Prediction(torch.eye(5), torch.arange(5))); assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def classification(**dataset: Any) -> Classification:
    inspection = inspect_teacher(read_teacher(TEACHER))
    request = {
        "teacher": "upl_t",
        "dataset": {"builtin": "digits", **dataset},
        "student": {"depth": 8, "select": "even"},
        "alpha": 0,
    }
    spec = resolve(JobRequest.model_validate(request), inspection)
    teacher = build_teacher(spec.teacher.architecture, TEACHER)
    student = build_student(teacher, spec)
    data = load_dataset(DatasetRequest.model_validate(request["dataset"]), None, None, Interface(1, 10))
    size = count_parameters(student.network)
    return Classification(spec, teacher, student, data, torch.device("cpu"), student_parameters=size)


def test_both_networks_are_measured_alike() -> None:
    task = classification()
    teacher, student = (task.measure(network.network, Split.TEST) for network in (task.teacher, task.student))
    assert set(teacher) == set(student) == {"accuracy", "top5", "per_class", "calibration_error", "agreement"}
    assert teacher["agreement"] == 100
    assert student["agreement"] < 100
    assert teacher["accuracy"] <= teacher["top5"] <= 100
    labels = task.dataset.splits[Split.TEST].y
    shares = torch.bincount(labels).double() / len(labels)
    per_class = list(teacher["per_class"].values())
    assert list(teacher["per_class"]) == task.dataset.classes
    assert float(shares @ torch.tensor(per_class, dtype=torch.float64)) == pytest.approx(teacher["accuracy"])
    # Its accuracy is far below the certainty with which it answers, as blocks were left out untrained.
    assert student["calibration_error"] > teacher["calibration_error"]


def test_a_split_without_labels_is_null_and_said_to_be() -> None:
    task = classification(labels=False)
    measured = [
        {split: task.measure(network.network, split) for split in (Split.VALIDATION, Split.TEST)}
        for network in (task.teacher, task.student)
    ]
    unlabelled, labelled = measured[1][Split.VALIDATION], measured[1][Split.TEST]
    assert [unlabelled[name] for name in ("accuracy", "top5", "per_class", "calibration_error")] == [None] * 4
    assert unlabelled["agreement"] is not None
    assert None not in labelled.values()
    teacher, student = (
        Measures.model_validate({name: {split.value: m[split][name] for split in m} for name in m[Split.TEST]})
        for m in measured
    )
    notes = task.compare(teacher, student).notes
    assert notes is not None
    [note] = notes
    size = len(task.dataset.splits[Split.VALIDATION].y)
    assert note.startswith(f"{size} of {size} samples of the validation split have no label")
    assert "agreement" in note
    assert classification().compare(teacher, student).notes == []
