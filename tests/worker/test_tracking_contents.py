"""What a run says about its job, without a tracking server."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from jobs.database.models import Event, Job
from jobs.settings import Settings
from lit_spec import Schedule
from lit_spec.states import JobState
from service.errors import NotConfigured
from service.worker_children import check_trackers, tracking_workers
from tests.worker.mlflow_services import RESULT, onnx_file
from worker.tracking import contents
from worker.tracking.model_folder import MODEL_FILE, write_model_files
from worker.tracking.package import missing_package

AT = datetime(2026, 1, 2, tzinfo=UTC)
SCHEDULE = Schedule.model_validate({"lit": {"epochs": 3}, "fine_tune": {"epochs": 2}})


def job(**values: object) -> Job:
    made = {"id": "job_1", "owner": "local", "name": None, "tags": [], "state": "running", "trial": None}
    return Job(**made | {"study_id": None, "error": None, "result": None, "finished_at": AT, **values})


def event(type: str, **data: object) -> Event:
    return Event(type=type, data=data, attempt=2, created_at=AT)


def test_parameters_are_flat_and_within_mlflows_limits() -> None:
    spec = {"schedule": {"lit": {"epochs": 3, "frozen": None}}, "then": ["int8"], "a=b": True, "long": "x" * 600}
    found = contents.parameters(spec)
    assert found == {"schedule.lit.epochs": "3", "then": '["int8"]', "a_b": "true", "long": "x" * 499 + "…"}
    assert len(contents.name_of("ü" * 300)) == contents.MOST_NAME


def test_epochs_are_counted_through_all_phases_and_repeated_ones_left_out() -> None:
    steps = [contents.global_epoch(SCHEDULE, *at) for at in (("lit", 3), ("fine_tune", 1), ("prune", 1), ("prune", 4))]
    assert steps == [3, 4, 6, 9]
    done = event("epoch", phase="fine_tune", epoch=1, metrics={"ir_loss_1": 0.5, "odd:name": 1})
    assert contents.values_of(done, SCHEDULE, newest=3) == [
        contents.Value("ir_loss_1", 0.5, 4, AT),
        contents.Value("odd_name", 1.0, 4, AT),
    ]
    assert contents.values_of(done, SCHEDULE, newest=4) == []


def test_events_become_values_and_tags() -> None:
    measured = event("teacher_measured", accuracy=97.5, split="val", interval=[96, 98])
    assert contents.values_of(measured, SCHEDULE, 0) == [contents.Value("teacher_before.accuracy", 97.5, 0, AT)]
    planned = event("student_measured", number=3, students=6, depth=8, damage={"kl": 0.25})
    assert contents.values_of(planned, SCHEDULE, 0) == [
        contents.Value("planned.depth", 8.0, 3, AT),
        contents.Value("planned.damage.kl", 0.25, 3, AT),
    ]
    assert contents.tags_of(event("claimed")) == {"lit.attempt": "2"}
    assert contents.tags_of(event("lost", error={"detail": "the worker died"})) == {"lit.error": "the worker died"}
    assert contents.tags_of(event("student_chosen", depth=8)) == {"lit.student": '{"depth": 8}'}


def test_the_result_becomes_metrics() -> None:
    found = {value.name: value.value for value in contents.summary_values(job(result=RESULT | {"accepted": True}))}
    assert found["teacher.accuracy.test"] == 97.5
    assert found["student.parameters"] == 100_000
    assert (found["accuracy_drop"], found["accepted"]) == (0.5, 1.0)
    assert contents.summary_values(job()) == []


def test_trials_are_named_and_tagged_by_their_study() -> None:
    trial = job(study_id="study_1", trial={"arm": "lit", "seed": 3})
    assert contents.run_name(trial, "methods", None) == "methods: arm lit, seed 3"
    assert contents.run_name(trial, "methods", "mine") == "mine"
    assert contents.run_name(job(), None, None) == "job_1"
    assert contents.run_name(job(name="first"), None, None) == "first"
    assert contents.tags(trial, "methods", "0.1.0", {"team": "a"}) == {
        "team": "a",
        "lit.job_id": "job_1",
        "lit.owner": "local",
        "lit.version": "0.1.0",
        "lit.study_id": "study_1",
        "lit.study": "methods",
        "lit.trial": '{"arm": "lit", "seed": 3}',
    }


def test_the_description_is_markdown_that_names_cannot_break() -> None:
    shown = contents.description(
        job(name="[x](evil) <b>", result=RESULT, state="succeeded"), "https://lit.example.org/"
    )
    assert shown.startswith(r"**\[x\](evil) \<b\>**, job [job_1](https://lit.example.org/v1/jobs/job_1)")
    assert "| depth | 38 | 14 |" in shown
    assert shown.endswith("- a note")
    failed = contents.description(job(error={"type": "diverged", "detail": "not finite"}, state="failed"), None)
    assert failed == "job `job_1` of LIT: failed.\n\ndiverged: not finite"


def test_every_state_has_a_status() -> None:
    assert set(contents.STATUSES) == set(JobState)


def test_the_model_folder_has_the_networks_signature(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(onnx_file(np.zeros((4, 2), np.float32)))
    write_model_files(tmp_path, "run", {"classes": ["a", "b"]})
    model = yaml.safe_load((tmp_path / "MLmodel").read_text())
    tensor = '"type": "tensor", "tensor-spec": {"dtype": "float32", "shape"'
    assert model["signature"]["inputs"] == f"[{{{tensor}: [-1, 4]}}}}]"
    assert model["signature"]["outputs"] == f'[{{"name": "logits", {tensor}: [-1, 2]}}}}]'
    assert model["flavors"]["python_function"]["loader_module"] == "mlflow.onnx"
    requirements = (tmp_path / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in requirements] == ["mlflow", "onnx", "onnxruntime"]
    (tmp_path / MODEL_FILE).write_bytes(b"not a network")
    with pytest.raises(ValueError, match="not an ONNX file"):
        write_model_files(tmp_path, "run", {})


def test_a_missing_package_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = Settings(mlflow_tracking_uris="http://mlflow:5000")
    assert missing_package(tracked) is None
    monkeypatch.setattr("worker.tracking.package.find_spec", lambda _: None)
    assert missing_package(Settings()) is None
    with pytest.raises(NotConfigured, match="mlflow-skinny is not installed"):
        check_trackers(tracked)


def test_workers_start_without_the_client() -> None:
    code = "import sys, service.worker_process; sys.exit(bool({'mlflow', 'onnx', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_is_a_tracking_worker_only_with_a_server() -> None:
    assert tracking_workers(Settings()) == []
    assert [child.name for child in tracking_workers(Settings(MLFLOW_TRACKING_URI="http://mlflow:5000"))] == [
        "tracking worker"
    ]
