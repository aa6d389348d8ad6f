"""From a teacher over HTTP to a student that works: every kind of teacher and data set that people have."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_core
from lit_client import Client, InspectionFailed, ProblemError
from lit_client.models import Event, JobLive
from lit_core.data import Interface, load_dataset
from lit_spec import DatasetRequest, Split
from lit_spec.trainer.phases import JobPhase
from tests.e2e.digits import QUICK, SHORTEST, TEACHER, images, members, write_npz, write_pt, write_tar, write_zip


@pytest.fixture
def teacher(client: Client) -> str:
    return client.wait_inspection(client.upload(TEACHER, "teacher").id).id


def run(client: Client, **request: Any) -> Any:
    job = client.create_job({"student": QUICK, "schedule": SHORTEST, "exports": [], **request})
    return client.wait_job(job.id, timeout=150)


def test_a_teacher_goes_in_and_a_working_student_comes_out(client: Client, teacher: str, tmp_path: Path) -> None:
    inspection = client.get_upload(teacher).inspection
    assert inspection is not None
    assert (inspection.architecture.depth, inspection.architecture.blocks) == (38, [6, 6, 6])
    assert (inspection.parameters, inspection.format) == (316_270, "safetensors")
    assert [option.depth for option in inspection.students] == [8, 14, 20, 26, 32, 38]
    assert inspection.students[1].parameters_ratio == pytest.approx(316_270 / 97_198, abs=1e-3)

    job = client.create_job(
        {
            "teacher": teacher,
            "dataset": {"builtin": "digits"},
            "student": {"depth": 14},
            "schedule": {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}},
            "accept": {"max_accuracy_drop": 100},
        }
    )
    told = list(client.stream_events(job.id))
    events = [one for one in told if isinstance(one, Event)]
    lives = [one for one in told if isinstance(one, JobLive)]
    job = client.job(job.id)
    assert job.state == "succeeded", job.error
    assert (lives[-1].state, lives[-1].progress, lives[-1].estimated_finish) == ("succeeded", job.progress, None)
    progress = [one.progress for one in lives if one.progress is not None]
    assert [one.fraction for one in progress] == sorted(one.fraction for one in progress)
    assert {one.phase for one in progress} <= set(JobPhase)
    assert (progress[-1].phase, progress[-1].fraction) == ("storing", 1.0)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    epochs = [(event.data["phase"], event.data["epoch"]) for event in events if event.type == "epoch"]
    assert epochs == [("lit", 1), ("lit", 2), ("fine_tune", 1)]
    assert {"kd_loss", "ir_loss", "ir_loss_1", "ir_loss_2", "ir_loss_3", "student_accuracy", "teacher_accuracy"} <= {
        metric.name for metric in client.metrics(job.id, phase="lit")
    }
    assert job.accepted is True
    assert "lit epoch 2/2" in client.log(job.id)

    assert {file.path.name for file in client.download(job.id, tmp_path)} == {
        "model.safetensors",
        "config.json",
        "report.json",
        "model.onnx",
        "model.pt2",
    }
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["student"]["accuracy"]["test"] > 90
    blocks = report["specification"]["student"]["blocks"]
    assert (sum(blocks), blocks) == (6, report["student"]["blocks"]), "the trainer shares them over the sections"
    assert [len(kept) for kept in report["selection"]["kept"]] == blocks
    (chosen,) = [event.data for event in events if event.type == "student_chosen"]
    assert chosen == {"depth": 14, "blocks": blocks, "kept": report["selection"]["kept"]}
    assert report["ratios"]["parameters"] > 3
    assert len(report["epochs"]) == 3
    for network in ("teacher", "student"):
        for batch in ("batch_1", "batch_32"):
            assert 0 < report[network]["latency"][batch]["p50_ms"] <= report[network]["latency"][batch]["p95_ms"]

    model = lit_core.load(tmp_path)
    digits = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))
    test = digits.splits[Split.TEST]
    expected = [digits.classes[label] for label in test.y.tolist()]
    right = sum(a == b for a, b in zip(model.classify(test.x), expected, strict=True))
    assert 100 * right / len(expected) == pytest.approx(report["student"]["accuracy"]["test"], abs=0.3)


def test_one_curl_command_does_it_all(service_url: str, client: Client, tmp_path: Path) -> None:
    x, y = images()
    write_pt(tmp_path / "teacher.pt")
    write_npz(tmp_path / "digits.npz", x, y)
    job = json.dumps({"student": QUICK, "schedule": SHORTEST, "exports": [], "alpha": 0.5, "beta": 0.5, "tau": 4})
    command = ["curl", "-sS", "-F", f"job={job}", "-F", "teacher=@teacher.pt", "-F", "dataset=@digits.npz"]
    done = subprocess.run(
        [*command, f"{service_url}/v1/jobs"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["state"] == "queued", answer
    made = client.wait_job(answer["id"], timeout=150)
    assert made.state == "succeeded", made.error
    assert made.result is not None
    assert made.result["samples"] == {"train": 480, "val": 60, "test": 60}


def test_folders_of_images_in_a_tar(client: Client, teacher: str, tmp_path: Path) -> None:
    # That a zip of the same folders is the same data is proven where archives are read.
    upload = client.upload(write_tar(tmp_path / "digits.tar.gz", members().items()), "dataset").id
    job = run(client, teacher=teacher, dataset={"upload": upload})
    assert job.state == "succeeded", job.error
    assert job.result["samples"] == {"train": 200, "val": 100, "test": 100}


def test_a_running_job_is_cancelled_and_runs_again_with_changes(client: Client, teacher: str) -> None:
    long = {"lit": {"epochs": 500}, "fine_tune": {"epochs": 0}}
    job = client.create_job({"teacher": teacher, "dataset": {"builtin": "digits"}, "student": QUICK, "schedule": long})
    for event in client.follow(job.id):
        if event.type == "epoch":
            break
    assert client.cancel(job.id).cancel_requested
    cancelled = client.wait_job(job.id, timeout=20)
    assert cancelled.state == "cancelled"
    again = client.rerun(job.id, {"schedule": SHORTEST, "exports": []})
    assert client.wait_job(again.id, timeout=120).state == "succeeded"


def test_a_queued_job_tells_its_place(client: Client, teacher: str) -> None:
    request = {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": QUICK, "schedule": SHORTEST}
    first = client.create_job(request | {"schedule": {"lit": {"epochs": 500}}})
    second, third = client.create_job(request), client.create_job(request | {"device": "cuda"})
    end = time.monotonic() + 20
    while client.job(first.id).state != "running":
        assert time.monotonic() < end
    waiting = client.job(second.id).waiting
    assert waiting is not None
    assert (waiting.reason, waiting.position) == ("position", 1)
    waiting = client.job(third.id).waiting
    assert waiting is not None
    assert waiting.reason == "no-worker"
    for job in (third, second, first):
        client.cancel(job.id)
    assert client.wait_job(first.id, timeout=20).state == "cancelled"


def broken_image() -> dict[str, bytes]:
    files = members(200)
    name = next(name for name in files if name.startswith("digits/train/3/"))
    return files | {name: files[name][:60]}


def test_bad_data_is_refused_when_it_arrives_and_again_by_a_job(client: Client, teacher: str, tmp_path: Path) -> None:
    upload = client.upload(write_zip(tmp_path / "data.zip", broken_image()), "dataset")
    with pytest.raises(InspectionFailed, match=r"digits/train/3/.*\.png can't be read"):
        client.wait_inspection(upload.id, timeout=60)
    with pytest.raises(ProblemError, match=r"\.png") as refused:
        client.create_job({"teacher": teacher, "dataset": {"upload": upload.id}, "student": QUICK})
    assert (refused.value.status, refused.value.errors[0].field) == (422, "dataset.upload")


def test_labels_in_another_order_fail_the_job_before_training(client: Client, teacher: str, tmp_path: Path) -> None:
    upload = client.upload(write_npz(tmp_path / "data.npz", images()[0], (images()[1] + 1) % 10), "dataset")
    found = client.wait_inspection(upload.id, timeout=60).dataset_inspection
    assert found is not None
    assert (found.format, found.number_of_classes, found.looked_at) == ("npz", 10, len(images()[1]))
    job = run(client, teacher=teacher, dataset={"upload": upload.id})
    assert (job.state, job.error.type) == ("failed", "teacher-near-chance")
    assert "dataset.class_order" in job.error.detail
    assert client.metrics(job.id) == []


def test_a_checkpoint_of_another_architecture_lists_its_keys(client: Client, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "vgg.pt")
    with pytest.raises(InspectionFailed, match=r"features\.0\.weight"):
        client.wait_inspection(client.upload(tmp_path / "vgg.pt", "teacher").id, timeout=60)
