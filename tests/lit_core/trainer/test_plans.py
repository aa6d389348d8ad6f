"""The job of a plan: a range of students is measured, and none is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from lit_core.measuring.cost import count_parameters
from lit_core.model import save_weights
from lit_core.networks.student import shortened
from lit_core.networks.teacher import build_teacher
from lit_core.selection.plan import file_size, with_front
from lit_core.trainer.job import run_job
from lit_core.training.loop import Drained
from lit_core.training.task import Refused
from lit_spec import ErrorType, JobSpec, Split
from lit_spec.trainer.folder import PLAN_OUTPUT, TrainerExit
from lit_spec.trainer.messages import StudentMeasured
from lit_spec.trainer.plan import PlanReport
from lit_spec.trainer.report import BySplit, Measures
from tests.jobs.study_specs import make_plan
from tests.lit_core.trainer.test_methods import StopsAt, train_in
from tests.lit_core.trainer.test_training import KeptMessages, job_folder, run, stripes, write_dataset


def plan_folder(folder: Path, teacher_file: Path, options: dict[str, Any] | None = None, **changes: Any) -> Path:
    job = {"exports": None, **changes}
    return job_folder(folder, teacher_file, student={"plan": options or {}}, **job)


def plan_in(folder: Path) -> PlanReport:
    """The report of the plan that is prepared there, made in this process."""
    run_job(folder, KeptMessages(), StopsAt(1000))
    return report_of(folder)


def report_of(folder: Path) -> PlanReport:
    return PlanReport.model_validate_json((folder / "output" / "report.json").read_bytes())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder and the messages of a plan of four students, which are repaired too."""
    folder = plan_folder(tmp_path_factory.mktemp("plan") / "job", teacher_file, {"students": 4, "repair": True})
    code, events = run(folder)
    assert code == TrainerExit.DONE, events[-1]
    return folder, events


def test_a_plan_measures_students_from_one_block_less_to_one_block_a_section(
    planned: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, events = planned
    assert sorted(path.name for path in (folder / "output").iterdir()) == sorted(PLAN_OUTPUT)
    report = report_of(folder)
    assert [student.blocks and sum(student.blocks) for student in report.students] == [8, 6, 5, 3]
    assert report.students[-1].blocks == [1, 1, 1]
    measured = [event["data"] for event in events if event["type"] == "student_measured"]
    assert measured == [{**student.as_json(), "front": False} for student in report.students]
    finished = {name: value for name, value in report.as_json().items() if name != "specification"}
    assert events[-1]["result"] == finished

    spec = JobSpec.model_validate_json((folder / "spec.json").read_bytes())
    teacher = build_teacher(spec.teacher.architecture, folder / "teacher.safetensors")
    assert report.teacher.parameters == count_parameters(teacher.network)
    for student in report.students:
        network = shortened(teacher, student.kept).network
        assert (student.parameters, student.file_size) == (count_parameters(network), file_size(network))
        assert 4 * student.parameters < student.file_size < 4.5 * student.parameters
        assert student.depth == 2 * sum(student.blocks) + 2
    for name in ("flops", "file_size", "latency_ms"):
        falling = [getattr(one, name) for one in (report.teacher, *report.students)]
        assert falling == sorted(falling, reverse=True), name


def test_a_students_damage_and_scores_are_those_of_its_blocks(tmp_path: Path, teacher_file: Path) -> None:
    """A job with the same blocks has the same untrained student, so its baselines are the plan's numbers."""
    planned = plan_in(plan_folder(tmp_path / "plan", teacher_file, {"students": 3})).students[1]
    once = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
    job = job_folder(tmp_path / "job", teacher_file, student={"kept": planned.kept}, schedule=once)
    train_in(job)
    untrained = json.loads((job / "output" / "report.json").read_text())["baselines"]["untrained"]
    assert planned.untrained.accuracy is not None
    assert planned.untrained.agreement is not None
    assert planned.untrained.accuracy.val == untrained["accuracy"]["val"]
    assert planned.untrained.agreement.val == untrained["agreement"]["val"]
    assert planned.damage is not None
    assert planned.damage > 0


def test_the_front_has_the_students_that_none_beats(planned: tuple[Path, list[dict[str, Any]]]) -> None:
    report = report_of(planned[0])
    found = [(student.latency_ms, student.best(report.metric)) for student in report.students]
    for student, (latency, score) in zip(report.students, found, strict=True):
        beaten = any(other != (latency, score) and other[0] <= latency and other[1] >= score for other in found)
        assert student.front is not beaten
    assert any(student.front for student in report.students)


@pytest.mark.parametrize("repair", [True, False])
def test_without_labels_students_are_compared_by_agreement(tmp_path: Path, teacher_file: Path, repair: bool) -> None:
    # The default alpha, for which a training would need labels.
    folder = plan_folder(
        tmp_path / "job",
        teacher_file,
        {"students": 2, "repair": repair},
        dataset={"upload": "upl_d", "labels": False},
    )
    report = plan_in(folder)
    assert report.metric == "agreement"
    assert report.teacher.scores.accuracy is None
    assert report.teacher.scores.agreement is not None
    assert report.teacher.scores.agreement.val == 100
    assert repair or [student.repaired for student in report.students] == [None, None]
    if repair:
        for student in report.students:
            assert student.repaired is not None, "the repair of a trained network's student helps here"


def test_the_picture_shows_each_student_and_each_section(planned: tuple[Path, list[dict[str, Any]]]) -> None:
    picture = planned[0] / "output" / "plan.svg"
    ElementTree.parse(picture)  # noqa: S314 - our own file
    text = picture.read_text()
    for words in ("expected latency at batch 1", "8 blocks", "3 blocks", "teacher, 9 blocks", "nats"):
        assert f"<!-- {words}" in text or words in text, words


def test_a_plan_can_be_stopped_between_two_students(tmp_path: Path, teacher_file: Path) -> None:
    folder, messages = plan_folder(tmp_path / "job", teacher_file, {"students": 3, "repair": False}), KeptMessages()
    with pytest.raises(Drained):
        run_job(folder, messages, StopsAt(1))
    assert [message.number for message in messages.messages if isinstance(message, StudentMeasured)] == [1]
    assert not (folder / "output").exists()


def test_a_teacher_near_chance_is_refused(tmp_path: Path, teacher_file: Path) -> None:
    folder = plan_folder(tmp_path / "job", teacher_file)
    x, y = stripes()
    write_dataset(folder / "dataset", x=x, y=(y + 1) % (y.max() + 1))
    with pytest.raises(Refused) as refused:
        plan_in(folder)
    assert refused.value.error.type == ErrorType.TEACHER_NEAR_CHANCE


def test_a_teacher_is_measured_on_the_test_split_where_that_alone_has_labels(
    tmp_path: Path, teacher_file: Path
) -> None:
    x, y = stripes()
    split = np.full(len(y), 0)
    split[:100], split[100:200] = 1, 2

    def plan(name: str, labels: NDArray[np.int64], **changes: Any) -> PlanReport:
        options, dataset = {"students": 2, "repair": False}, {"upload": "upl_d", "unlabelled": -1}
        folder = plan_folder(tmp_path / name, teacher_file, options, dataset=dataset, **changes)
        write_dataset(folder / "dataset", x=x, y=np.where(split == 2, labels, -1), split=split)
        return plan_in(folder)

    report = plan("right", y, teacher_accuracy=50)
    assert report.metric == "agreement"
    assert report.teacher_accuracy is not None
    assert (report.teacher_accuracy.split, report.teacher_accuracy.samples) == (Split.TEST, 100)
    with pytest.raises(Refused, match="100 labelled samples of the test split") as refused:
        plan("wrong", (y + 1) % 3)
    assert refused.value.error.type == ErrorType.TEACHER_NEAR_CHANCE


def test_students_whose_outputs_are_not_finite_are_not_on_the_front() -> None:
    good, broken = make_plan([[[0, 1], [0]], [[0], [0]]]).students
    broken = broken.model_copy(update={"untrained": Measures(agreement=BySplit(val=None))})
    assert [student.front for student in with_front([good, broken], "agreement")] == [True, False]
    assert broken.best("agreement") is None


def test_weights_that_several_blocks_share_are_in_the_file_more_than_once(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    network[1].weight = network[0].weight
    save_weights(network, tmp_path / "model.safetensors")
    assert 0 < (tmp_path / "model.safetensors").stat().st_size - file_size(network) < 500
