"""A job whose student is chosen for a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import lit_core
from lit_core.measuring.cost import count_parameters
from lit_core.selection import targets
from lit_core.trainer.job import run_job
from lit_core.training.checkpoint import load_checkpoint
from lit_core.training.loop import Drained
from lit_spec.networks.students import BlockCosts
from lit_spec.trainer.folder import CHECKPOINT_FILE, TrainerExit
from lit_spec.trainer.messages import StudentChosen
from tests.lit_core.trainer.test_methods import StopsAt, prepare, read_report
from tests.lit_core.trainer.test_training import KeptMessages, failed, job_folder, run

ONCE = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}


def job(folder: Path, teacher_file: Path, target: dict[str, Any], **changes: Any) -> Path:
    student = {"target": target, **changes.pop("student", {})}
    return job_folder(folder, teacher_file, student=student, schedule=ONCE, **changes)


def test_a_target_that_only_the_trainer_can_judge_gives_the_student_everywhere(
    tmp_path: Path, teacher_file: Path
) -> None:
    folder = job(tmp_path / "job", teacher_file, {"flops_ratio": 1.3}, exports=["hugging_face"])
    assert json.loads((folder / "spec.json").read_text())["student"]["blocks"] is None
    code, events = run(folder)
    assert code == TrainerExit.DONE, events[-1]
    report = read_report(folder)
    student, kept = report["student"], report["selection"]["kept"]
    assert student["blocks"] == [len(of_section) for of_section in kept] != [3, 3, 3]
    assert report["ratios"]["flops"] >= 1.3
    found = report["selection"]["target"]
    assert (found["asked"]["flops_ratio"], found["unit"]) == (1.3, "FLOPs")
    assert (found["teacher"], found["expected"]) == (report["teacher"]["flops"], student["flops"])
    assert student["depth"] == 2 * sum(student["blocks"]) + 2
    assert report["specification"]["student"]["blocks"] == student["blocks"]
    (chosen,) = [event["data"] for event in events if event["type"] == "student_chosen"]
    assert (chosen["blocks"], chosen["kept"], chosen["target"]) == (student["blocks"], kept, found)
    loaded = lit_core.load(folder / "output")
    assert count_parameters(loaded.network) == student["parameters"]
    assert json.loads((folder / "output" / "config.json").read_text())["architecture"]["blocks"] == student["blocks"]
    with ZipFile(folder / "output" / "bundle.zip") as bundle:
        (card,) = [name for name in bundle.namelist() if name.endswith("README.md")]
        assert f"9 blocks reduced to {sum(student['blocks'])}" in bundle.read(card).decode()


def test_a_latency_is_expected_at_its_batch_and_measured_there_in_the_end(tmp_path: Path, teacher_file: Path) -> None:
    folder = job(tmp_path / "job", teacher_file, {"latency_ratio": 1.2, "batch": 3})
    assert run(folder)[0] == TrainerExit.DONE
    report = read_report(folder)
    found = report["selection"]["target"]
    assert (found["asked"]["batch"], found["unit"]) == (3, "ms")
    assert found["teacher"] >= 1.2 * found["expected"]
    assert set(report["student"]["latency"]) == {"batch_1", "batch_3", "batch_32"}
    ratio = report["teacher"]["latency"]["batch_3"]["p50_ms"] / report["student"]["latency"]["batch_3"]["p50_ms"]
    assert any("chosen for latency_ratio 1.2 at batch 3" in note for note in report["notes"]) == (round(ratio, 4) < 1.2)


@pytest.mark.parametrize("labels", [True, False])
def test_an_accuracy_drop_takes_the_shallowest_untrained_student_within_it(
    tmp_path: Path, teacher_file: Path, labels: bool
) -> None:
    """The untrained student is epoch 0, so its drop on the validation split is what the report says."""
    changes: dict[str, Any] = {} if labels else {"alpha": 0.0}
    dataset = {"upload": "upl_d", "labels": labels}
    folder = job(tmp_path / "job", teacher_file, {"max_accuracy_drop": 40}, dataset=dataset, **changes)
    code, events = run(folder)
    assert code == TrainerExit.DONE, events[-1]
    report = read_report(folder)
    untrained = report["baselines"]["untrained"]
    drop = (
        report["teacher"]["accuracy"]["val"] - untrained["accuracy"]["val"]
        if labels
        else 100 - untrained["agreement"]["val"]
    )
    found = report["selection"]["target"]
    assert found["unit"] == "points"
    assert found["expected"] == pytest.approx(drop, abs=1e-3)
    assert drop <= 40


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"flops_ratio": 50}, "asks for flops_ratio 50, but the smallest student reaches only"),
        ({"latency_ms": 1e-6}, "asks for latency_ms 1e-06 at batch 1, but the smallest student has"),
    ],
)
def test_a_target_out_of_reach_fails_the_first_attempt_with_what_can_be_reached(
    tmp_path: Path, teacher_file: Path, target: dict[str, float], says: str
) -> None:
    error = failed(job(tmp_path / "job", teacher_file, target))
    assert (error["type"], error["field"]) == ("bad-specification", "student.target")
    assert says in error["detail"]


def test_a_resumed_job_keeps_the_student_that_was_chosen(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine would have measured something else."""
    student = {"target": {"latency_ratio": 1.2}}
    folder = tmp_path / "job"
    prepare(folder, teacher_file, student=student)
    messages = KeptMessages()
    with pytest.raises(Drained):
        run_job(folder, messages, StopsAt(3))
    (chosen,) = [message.data for message in messages.messages if isinstance(message, StudentChosen)]
    kept = load_checkpoint(folder / CHECKPOINT_FILE).selection
    assert kept.target is not None
    assert (kept.kept_blocks, kept.target.as_json()) == (chosen["kept"], chosen["target"])

    def measured_again(*_: Any) -> BlockCosts:
        raise AssertionError

    monkeypatch.setattr(targets, "latency_costs", measured_again)
    resumed = KeptMessages()
    report = run_job(folder, resumed, StopsAt(10**9))
    assert not any(isinstance(message, StudentChosen) for message in resumed.messages)
    assert report.selection.kept == chosen["kept"]
    assert report.student.blocks == chosen["blocks"]
    assert report.selection.target == kept.target
