"""`litc` as people and pipelines run it: a process with exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULT = {
    "teacher": {"accuracy": {"test": 97.5}, "parameters": 300_000, "latency": {"batch_1": {"p50_ms": 9.0}}},
    "student": {"accuracy": {"test": 96.25}, "parameters": 100_000, "latency": {"batch_1": {"p50_ms": 3.0}}},
    "ratios": {"parameters": 3.0, "latency_batch_1": 3.0},
}
SUCCEEDED = {"state": "succeeded", "result": RESULT}


def litc(service, *words, cwd=ROOT, **environment):
    url = {"LIT_URL": service.url} if service else {}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIT_")}
    return subprocess.run(
        [sys.executable, "-m", "lit_client.command", *map(str, words)],
        env=inherited | url | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def teacher(tmp_path):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(b"tensors")
    return path


@pytest.fixture
def compress(faulty, teacher, tmp_path):
    faulty.add_file("model.safetensors", b"student")

    def run(*words):
        return litc(faulty, "compress", teacher, "--output", tmp_path / "out", *words)

    return run


def test_compress_sends_the_request_fetches_and_shows_both(compress, faulty, tmp_path):
    faulty.job_fields = SUCCEEDED
    done = compress(
        *("--dataset", "digits", "--depth", 14, "--beta", 0.25, "--epochs", 3, "--tag", "a", "--tag", "b"),
        *("--max-accuracy-drop", 1.5, "--set", "schedule.batch_size=64", "--init", "random"),
    )
    assert done.returncode == 0, done.stderr
    assert faulty.jobs["job_0"]["request"] == {
        "teacher": "upl_0",
        "dataset": {"builtin": "digits"},
        "student": {"depth": 14, "init": "random"},
        "beta": 0.25,
        "schedule": {"lit": {"epochs": 3}, "batch_size": 64},
        "tags": ["a", "b"],
        "accept": {"max_accuracy_drop": 1.5},
    }
    assert (tmp_path / "out/model.safetensors").read_bytes() == b"student"
    for text in ("97.50", "96.25", "300,000", "3.00", "model.safetensors"):
        assert text in done.stdout
    assert "job job_0" in done.stderr


def test_compress_uploads_a_dataset_and_keeps_its_settings(compress, faulty, tmp_path):
    faulty.job_fields = SUCCEEDED
    data = tmp_path / "data.npz"
    data.write_bytes(b"arrays")
    done = compress("--dataset", data, "--blocks", "1,2,2", "--set", "dataset.mean=[0.5]")
    assert done.returncode == 0, done.stderr
    request = faulty.jobs["job_0"]["request"]
    assert request["dataset"] == {"mean": [0.5], "upload": "upl_1"}
    assert request["student"] == {"blocks": [1, 2, 2]}
    assert bytes(faulty.data["upl_1"]) == b"arrays"
    assert faulty.uploads["upl_1"]["kind"] == "dataset"


def test_compress_needs_no_dataset_where_the_request_names_a_mounted_one(compress, faulty):
    faulty.job_fields = SUCCEEDED
    done = compress("--request", ROOT / "examples/paper/resnet-110-20-cifar10.json")
    assert done.returncode == 0, done.stderr
    assert faulty.jobs["job_0"]["request"]["dataset"]["mounted"] == "cifar10"
    assert [upload["kind"] for upload in faulty.uploads.values()] == ["teacher"]


@pytest.mark.parametrize("source", [{"builtin": "digits"}, {"mounted": "cifar10"}, {"upload": "upl_other"}])
def test_compress_sends_the_named_dataset_in_place_of_the_files(compress, faulty, tmp_path, source):
    faulty.job_fields = SUCCEEDED
    data, request = tmp_path / "data.npz", tmp_path / "request.json"
    data.write_bytes(b"arrays")
    request.write_text(json.dumps({"dataset": {**source, "mean": [0.5]}, "student": {"depth": 14}}))
    done = compress("--dataset", data, "--request", request)
    assert done.returncode == 0, done.stderr
    assert faulty.jobs["job_0"]["request"]["dataset"] == {"mean": [0.5], "upload": "upl_1"}


def test_the_method_is_named_by_options(compress, faulty):
    faulty.job_fields = SUCCEEDED
    words = ("--preset", "few", "--method", "kd", "--feed", "student", "--no-labels")
    done = compress("--dataset", "digits", "--depth", 14, *words)
    assert done.returncode == 0, done.stderr
    request = faulty.jobs["job_0"]["request"]
    assert (request["preset"], request["method"], request["feed"], request["alpha"]) == ("few", "kd", "student", 0)
    assert request["dataset"] == {"builtin": "digits", "labels": False}


def test_json_alone_is_on_stdout(compress, faulty, tmp_path):
    faulty.job_fields = SUCCEEDED
    answer = json.loads(compress("--dataset", "digits", "--depth", 14, "--json").stdout)
    assert (answer["id"], answer["state"], answer["result"]) == ("job_0", "succeeded", RESULT)
    assert answer["files"][0]["path"] == str(tmp_path / "out/model.safetensors")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (SUCCEEDED | {"accepted": True}, 0),
        (SUCCEEDED | {"accepted": False}, 3),
        ({"state": "failed", "error": {"type": "diverged", "detail": "The loss is no number."}}, 1),
        ({"state": "cancelled"}, 1),
    ],
)
def test_exit_codes_tell_how_the_job_ended(compress, faulty, tmp_path, fields, code):
    faulty.job_fields = fields
    done = compress("--dataset", "digits", "--depth", 14)
    assert done.returncode == code, done.stderr
    fetched = (tmp_path / "out/model.safetensors").exists()
    assert fetched == (fields["state"] == "succeeded"), "a student that was not accepted is fetched all the same"
    if "error" in fields:
        assert "The loss is no number. [diverged]" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dataset", "digits", "--depth", 14, "--alpha", 2), "alpha"),
        (("--depth", 14), "--dataset"),
        (("--dataset", "nowhere.npz", "--depth", 14), "nowhere.npz"),
        (("--dataset", "tests", "--depth", 14), "pack it"),
        (("--dataset", "digits", "--depth", 14, "--set", "alfa=0.5"), "alfa"),
        (("--dataset", "digits"), "student: give exactly one"),
        (("--dataset", "digits", "--depth", "many"), "valid integer"),
        (("--dataset", "digits", "--blocks", "2;2"), "2;2"),
        (("--dataset", "digits", "--blocks", "2,2,2", "--depth", 14), "give one of them"),
        (("--dataset", "pyproject.toml", "--depth", 14, "--set", "dataset.builtin=digits"), "give one of them"),
    ],
)
def test_wrong_use_ends_with_2_before_anything_is_sent(compress, faulty, words, said):
    done = compress(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not faulty.requests


@pytest.mark.parametrize(("words", "said"), [(("--depth", 15), "student.depth: 15")])
def test_student_that_does_not_fit_is_told_before_the_dataset_is_sent(compress, faulty, tmp_path, words, said):
    option = {"depth": 20, "blocks": [3, 3, 3], "parameters": 9, "parameters_ratio": 1.0}
    architecture = {"family": "cifar-resnet", "depth": 20, "blocks": [3, 3, 3], "channels": 1, "classes": 10}
    students = [option | {"depth": 14, "blocks": [2, 2, 2]}, option]
    faulty.inspection = {"format": "pt", "architecture": architecture, "parameters": 9, "students": students}
    data = tmp_path / "data.npz"
    data.write_bytes(b"arrays")
    done = compress("--dataset", data, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert [upload["kind"] for upload in faulty.uploads.values()] == ["teacher"]


def test_a_teacher_for_texts_is_shown_checked_and_sent_with_what_its_tensors_leave_open(compress, faulty, tmp_path):
    option = {"depth": 9, "blocks": [1, 1, 1, 1], "parameters": 9, "parameters_ratio": 1.0}
    architecture = {
        "family": "vdcnn",
        "modality": "text",
        "depth": 17,
        "blocks": [2, 2, 2, 2],
        "channels": None,
        "classes": 2,
        "options": {"downsampling": "maxpool", "vocabulary_size": 69},
        "choices": {"downsampling": ["maxpool", "conv", "kmaxpool"]},
    }
    students = [option, option | {"depth": 17, "blocks": [2, 2, 2, 2]}]
    faulty.inspection = {"format": "pt", "architecture": architecture, "parameters": 9, "students": students}
    shown = litc(faulty, "inspect", tmp_path / "teacher.safetensors")
    words = " ".join(shown.stdout.split())
    assert "texts, 2 classes" in words
    assert "teacher_options.downsampling=maxpool; it may be maxpool, conv, kmaxpool" in words
    data = tmp_path / "reviews.csv"
    data.write_text("1,good\n")
    wrong = compress("--dataset", data, "--depth", 9, "--set", "teacher_options.downsampling=stride")
    assert wrong.returncode == 2
    assert "teacher_options.downsampling" in wrong.stderr
    faulty.job_fields = SUCCEEDED
    done = compress("--dataset", data, "--depth", 9, "--set", "teacher_options.downsampling=conv")
    assert done.returncode == 0, done.stderr
    assert next(iter(faulty.jobs.values()))["request"]["teacher_options"] == {"downsampling": "conv"}


def test_problem_of_the_service_is_a_sentence_and_2(faulty):
    done = litc(faulty, "job", "job_x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "There is no job job_x.\n"


def test_nobody_listening_is_a_sentence_and_1(teacher):
    done = litc(None, "inspect", teacher, "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "litc serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("cancel", [False, True])
def test_ctrl_c_leaves_the_job_running_unless_told_otherwise(faulty, teacher, tmp_path, cancel):
    faulty.job_fields = {"state": "running"}
    words = ["compress", teacher, "--dataset", "digits", "--depth", "14", "-o", tmp_path / "out"]
    command = [sys.executable, "-m", "lit_client.command", *words, *["--cancel-on-interrupt"][: int(cancel)]]
    process = subprocess.Popen(
        command, env=os.environ | {"LIT_URL": faulty.url}, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    with process:
        while not faulty.count("GET", "job_0/events"):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert faulty.count("POST", "/cancel") == int(cancel)
    assert ("litc cancel job_0" in said) != cancel
    assert ("being cancelled" in said) == cancel


def test_epochs_are_told_line_by_line_where_no_terminal_is(compress, faulty):
    faulty.job_fields = SUCCEEDED
    data = {"phase": "lit", "epoch": 1, "epochs": 2, "fraction": 0.3, "metrics": {"student_accuracy": 91.25}}
    faulty.events = [{"seq": 1, "attempt": 1, "type": "epoch", "data": data}]
    assert "LIT 1/2  student 91.25 %" in compress("--dataset", "digits", "--depth", 14).stderr


def test_jobs_job_and_download_answer_in_json(faulty, tmp_path):
    faulty.jobs = {f"job_{n}": {"id": f"job_{n}", "state": "queued"} for n in range(3)}
    faulty.add_file("report.json", b"{}")
    assert [job["id"] for job in json.loads(litc(faulty, "jobs", "--json").stdout)] == ["job_0", "job_1", "job_2"]
    assert "job_2" in litc(faulty, "jobs").stdout
    assert json.loads(litc(faulty, "job", "job_1", "--json").stdout)["state"] == "queued"
    files = json.loads(litc(faulty, "download", "job_1", "-o", tmp_path / "d", "--json").stdout)
    assert files[0]["path"] == str(tmp_path / "d/report.json")


def test_download_of_a_job_without_files_fails_with_a_sentence(faulty, tmp_path):
    faulty.jobs = {"job_0": {"id": "job_0", "state": "queued"}}
    done = litc(faulty, "download", "job_0", "-o", tmp_path / "d", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "job_0 has no files: only a job that has succeeded has any.\n"
    assert not (tmp_path / "d").exists()


def test_log_of_an_earlier_attempt(faulty):
    faulty.logs = ["the first", "the last"]
    assert "the first" in litc(faulty, "log", "job_0", "--attempt", 1).stdout
    assert "the last" in litc(faulty, "log", "job_0").stdout


def test_inspection_in_a_pipe_has_the_upload_in_its_first_line(faulty, teacher):
    architecture = {"family": "cifar-resnet", "depth": 20, "blocks": [3, 3, 3], "channels": 1, "classes": 10}
    students = [{"depth": 20, "blocks": [3, 3, 3], "parameters": 9, "parameters_ratio": 1.0}]
    faulty.inspection = {"format": "pt", "architecture": architecture, "parameters": 9, "students": students}
    first, *table = litc(faulty, "inspect", teacher).stdout.splitlines()
    assert first.startswith("teacher.safetensors: cifar-resnet, depth 20, 9 parameters")
    assert first.endswith("(upl_0)")
    assert any("3, 3, 3" in line for line in table)


def test_service_commands_explain_themselves_outside_a_checkout(tmp_path):
    for package in ("lit_client", "lit_core"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = litc(None, "serve", "--port", "0", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "checkout" in done.stderr
    assert "serve" in litc(None, "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout
