"""`litc` as people and pipelines run it: exit codes, stdout and stderr."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from jobs.ledger import attempts, keys
from jobs.ledger.attempts import Event
from lit_client import Client, LitError
from lit_client.command.compress import create_job
from lit_client.command.output import folder_for_results
from lit_spec import Architecture, ErrorType, Inspection, JobError, Modality, StudentOption, TeacherWeights
from lit_spec.answers.jobs import Job
from lit_spec.dataset_inspection import DatasetInspection, LabelKind, SplitContents, TextContents
from lit_spec.networks.architecture import InspectedLatency, TeacherFormat
from lit_spec.networks.students import BlockCosts
from lit_spec.states import JobState
from tests.jobs.study_bench import take
from tests.lit_client.command import NOWHERE, ROOT, Finished, environment, litc, litc_process
from tests.lit_client.faults import Fault, FaultyTransport
from tests.lit_client.scripted_worker import RESULT, ScriptedWorker
from tests.worker.bench import Bench

Compress = Callable[..., Finished]


@pytest.fixture
def compress(url: str, worker: ScriptedWorker, teacher: Path, tmp_path: Path) -> Compress:
    def run(*words: object) -> Finished:
        return litc(url, "compress", teacher, "--output", tmp_path / "out", *words)

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    path.write_bytes(b"arrays")
    return path


def jobs(url: str) -> list[Job]:
    with Client(url) as client:
        return list(client.jobs())


def the_request(url: str) -> dict[str, Any]:
    """That of the only job."""
    (job,) = jobs(url)
    return job.request


def kinds_of_uploads(url: str) -> list[str]:
    with Client(url) as client:
        return sorted(upload.kind for upload in client.uploads())


def stored(bench: Bench, upload_id: str) -> bytes:
    with bench.storage.open(f"uploads/{upload_id}/data") as file:
        return file.read()


def resnet(depths: dict[int, list[int]], **fields: Any) -> Inspection:
    """An inspection that offers students of these depths and blocks; the last is the teacher."""
    students = [
        StudentOption(depth=depth, blocks=blocks, parameters=9, parameters_ratio=1.0)
        for depth, blocks in depths.items()
    ]
    known = {"family": "resnet_cifar", "channels": 1, "classes": 10, "options": {"width": 16, "shortcut": "A"}}
    architecture = Architecture(depth=students[-1].depth, blocks=students[-1].blocks, **(known | fields))
    return Inspection(format=TeacherFormat.PT, architecture=architecture, parameters=9, students=students)


def test_compress_sends_the_request_fetches_and_shows_both(compress: Compress, url: str, tmp_path: Path) -> None:
    done = compress(
        *("--dataset", "digits", "--depth", 14, "--beta", 0.25, "--epochs", 3, "--tag", "a", "--tag", "b"),
        *("--max-accuracy-drop", 1.5, "--set", "schedule.batch_size=64", "--init", "random"),
    )
    assert done.returncode == 0, done.stderr
    (job,) = jobs(url)
    assert job.request == {
        "teacher": job.request["teacher"],
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
    assert f"job {job.id}" in done.stderr


def test_compress_uploads_a_dataset_and_keeps_its_settings(
    compress: Compress, url: str, bench: Bench, data: Path
) -> None:
    done = compress("--dataset", data, "--blocks", "1,2,2", "--set", "dataset.mean=[0.5]")
    assert done.returncode == 0, done.stderr
    request = the_request(url)
    assert request["dataset"] == {"mean": [0.5], "upload": request["dataset"]["upload"]}
    assert request["student"] == {"blocks": [1, 2, 2]}
    assert stored(bench, request["dataset"]["upload"]) == b"arrays"
    assert kinds_of_uploads(url) == ["dataset", "teacher"]


def test_compress_names_the_blocks_to_keep(compress: Compress, url: str) -> None:
    done = compress("--dataset", "digits", "--kept", "1,5/0,2,5/0")
    assert done.returncode == 0, done.stderr
    assert the_request(url)["student"] == {"kept": [[1, 5], [0, 2, 5], [0]]}


def test_compress_says_how_a_table_is_read(compress: Compress, url: str, data: Path) -> None:
    done = compress(
        *("--dataset", data, "--blocks", "1,2,2", "--columns", "image=photo,label=kind", "--unlabelled", "-1"),
    )
    assert done.returncode == 0, done.stderr
    dataset = the_request(url)["dataset"]
    assert (dataset["columns"], dataset["unlabelled"]) == ({"image": "photo", "label": "kind"}, "-1")


def test_compress_needs_no_dataset_where_the_request_names_a_mounted_one(
    compress: Compress, worker: ScriptedWorker, url: str
) -> None:
    worker.inspection = resnet({20: [3, 3, 3], 110: [18, 18, 18]}, channels=3)
    done = compress("--request", ROOT / "examples/paper/resnet-110-20-cifar10.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert the_request(url)["dataset"]["mounted"] == "cifar10"
    assert kinds_of_uploads(url) == ["teacher"]


@pytest.mark.parametrize("source", [{"builtin": "digits"}, {"mounted": "cifar10"}, {"upload": "upl_other"}])
def test_compress_sends_the_named_dataset_in_place_of_the_files(
    compress: Compress, url: str, bench: Bench, data: Path, tmp_path: Path, source: dict[str, str]
) -> None:
    request_file = tmp_path / "request.json"
    request_file.write_text(json.dumps({"dataset": {**source, "mean": [0.5]}, "student": {"depth": 14}}))
    done = compress("--dataset", data, "--request", request_file)
    assert done.returncode == 0, done.stderr
    sent = the_request(url)["dataset"]
    assert set(sent) == {"mean", "upload"}
    assert stored(bench, sent["upload"]) == b"arrays"


def test_the_method_is_named_by_options(compress: Compress, url: str) -> None:
    words = ("--preset", "few", "--method", "kd", "--feed", "student", "--no-labels")
    done = compress("--dataset", "digits", "--depth", 14, *words)
    assert done.returncode == 0, done.stderr
    request = the_request(url)
    assert (request["preset"], request["method"], request["feed"], request["alpha"]) == ("few", "kd", "student", 0)
    assert request["dataset"] == {"builtin": "digits", "labels": False}


def test_how_the_job_is_run_is_named_by_options(compress: Compress, url: str) -> None:
    words = ("--teacher-precision", "bfloat16", "--teacher-cache", "off")
    done = compress("--dataset", "digits", "--depth", 14, *words)
    assert done.returncode == 0, done.stderr
    request = the_request(url)
    assert (request["teacher_precision"], request["teacher_cache"]) == ("bfloat16", "off")


@pytest.mark.parametrize("name", ["devices", "nodes"])
def test_how_many_processes_train_is_a_field_of_the_request(compress: Compress, name: str) -> None:
    done = compress("--dataset", "digits", "--depth", 14, f"--{name}", 65)
    assert done.returncode == 2
    assert f"{name} (--{name}): " in done.stderr


def test_json_alone_is_on_stdout(url: str, worker: ScriptedWorker, teacher: Path, tmp_path: Path) -> None:
    words = ("--dataset", "digits", "--depth", 14, "--json")
    done = litc_process(url, "compress", teacher, "--output", tmp_path / "out", *words)
    answer = json.loads(done.stdout)
    (job,) = jobs(url)
    assert (answer["id"], answer["state"], answer["result"]) == (job.id, "succeeded", RESULT)
    assert answer["files"][0]["path"] == str(tmp_path / "out/model.safetensors")
    assert f"job {job.id}" in done.stderr


@pytest.mark.parametrize(
    ("ends", "accepted", "code"),
    [
        (JobState.SUCCEEDED, True, 0),
        (JobState.SUCCEEDED, False, 3),
        (JobState.FAILED, None, 1),
        (JobState.CANCELLED, None, 1),
    ],
)
def test_exit_codes_tell_how_the_job_ended(
    compress: Compress,
    worker: ScriptedWorker,
    url: str,
    tmp_path: Path,
    ends: JobState,
    accepted: bool | None,
    code: int,
) -> None:
    worker.ends, worker.result = ends, RESULT | {"accepted": accepted}
    done = compress("--dataset", "digits", "--depth", 14)
    assert done.returncode == code, done.stderr
    fetched = (tmp_path / "out/model.safetensors").exists()
    assert fetched == (ends == JobState.SUCCEEDED), "a student that was not accepted is fetched all the same"
    if ends == JobState.FAILED:
        assert "The loss is no number. [diverged]" in done.stdout
    (job,) = jobs(url)
    assert litc(url, "job", job.id, "--wait").returncode == code
    assert litc(url, "job", job.id).returncode == 0


def test_the_last_line_says_what_is_wrong_with_the_student(
    compress: Compress, worker: ScriptedWorker, url: str, teacher: Path, tmp_path: Path
) -> None:
    notes = ["2 samples have no label", "the student is no better than before its training"]
    worker.result = RESULT | {"outcome": "no-better-than-untrained", "notes": notes}
    words = ("--dataset", "digits", "--depth", 14)
    done = compress(*words)
    assert done.stdout.splitlines()[-1] == f"Note: {notes[1]}."
    assert "no-better-than-untrained" in done.stdout
    done = litc(url, "compress", teacher, "--output", tmp_path / "again", *words, "--json")
    assert json.loads(done.stdout)["result"]["notes"] == notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset", "digits", "--depth", 14, "--alpha", 2), "alpha"),
        (("--depth", 14), "--dataset"),
        (("--dataset", "nowhere.npz", "--depth", 14), "nowhere.npz"),
        (
            ("--dataset", "digits", "--depth", 14, "--set", f"discriminator={ROOT}"),
            "is a folder without model.safetensors",
        ),
        (("--dataset", "digits", "--depth", 14, "--set", "alfa=0.5"), "alfa"),
        (("--dataset", "digits"), "student (--depth): give exactly one"),
        (("--dataset", "digits", "--depth", "many"), "valid integer"),
        (("--dataset", "digits", "--blocks", "2;2"), "2;2"),
        (("--dataset", "digits", "--blocks", "2,2,2", "--depth", 14), "give one of them"),
        (("--dataset", "digits", "--kept", "0/0,2/0", "--ratio", 2), "give one of them"),
        (("--dataset", "digits", "--speedup", 1.5, "--target", "size_mb=5"), "give one of them"),
        (("--dataset", "digits", "--target", "size=5"), "write NAME=VALUE"),
        (("--dataset", "digits", "--depth", 14, "--columns", "review"), "write FIELD=NAME"),
        (("--dataset", "digits", "--depth", 14, "--unlabelled", "-1"), "is for an upload"),
        (("--dataset", "digits", "--speedup", 0.9), "student.target.latency_ratio"),
        (("--dataset", "digits", "--kept", "0/0;2"), "write the blocks to keep, as 0/0,2"),
        (("--dataset", "digits", "--kept", "0/2,0"), "student.kept.1"),
        (("--dataset", "digits", "--kept", "0/0", "--select", "first"), "leave out one of them"),
        (
            ("--dataset", ROOT / "pyproject.toml", "--depth", 14, "--set", "dataset.builtin=digits"),
            "give one of them",
        ),
        (("--dataset", "digits", "--blocks", "2", "--set", "discriminator=nowhere"), "nowhere is not a file"),
    ],
)
def test_wrong_use_ends_with_2_before_anything_is_sent(
    teacher: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    done = litc(NOWHERE, "compress", teacher, "--output", tmp_path / "out", *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_a_student_that_does_not_fit_is_told_before_the_dataset_is_sent(
    compress: Compress, worker: ScriptedWorker, url: str, data: Path, tmp_path: Path
) -> None:
    worker.inspection = resnet({14: [2, 2, 2], 20: [3, 3, 3]})
    done = compress("--dataset", data, "--depth", 15)
    assert done.returncode == 2
    assert "student.depth (--depth): no student of this teacher has the depth 15" in done.stderr
    assert kinds_of_uploads(url) == ["teacher"]
    assert not (tmp_path / "out").exists(), "there is nothing to put into it"


def test_a_folder_that_is_not_needed_goes_with_those_above_it_and_others_stay(tmp_path: Path) -> None:
    with pytest.raises(LitError), folder_for_results(tmp_path / "new/student"):
        raise LitError("refused")
    assert not (tmp_path / "new").exists()
    with folder_for_results(tmp_path / "new/student"):
        (tmp_path / "new/student/model").touch()
    assert (tmp_path / "new/student/model").exists()
    (tmp_path / "old").mkdir()
    with folder_for_results(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists(), "it was there before"


TEXTS = DatasetInspection(
    format="CSV, TSV or JSON lines",
    modalities=[Modality.TEXT],
    label_kind=LabelKind.NAMES,
    classes=["bad", "good"],
    number_of_classes=2,
    splits={"train": SplitContents(samples=1200, labelled=1100, counts=[1000, 100])},
    texts=TextContents(shortest=1, median=80, longest=900),
    looked_at=1000,
    skipped=[".DS_Store"],
    notes=["columns of the data set that are not used: id"],
)


def test_a_data_set_is_sent_and_shown(worker: ScriptedWorker, url: str, tmp_path: Path) -> None:
    worker.dataset_inspection = TEXTS
    (tmp_path / "reviews.csv").write_text("1,good\n")
    done = litc(url, "inspect", tmp_path / "reviews.csv")
    shown = " ".join(done.stdout.split())
    assert "reviews.csv: CSV, TSV or JSON lines, texts of 1 to 900 characters, median 80, 2 classes" in shown
    assert "1,000 of 1,200 samples looked at" in shown
    for words in ("bad 1,000", "good 100", "no label 100", "samples 1,200", "Skipped: .DS_Store."):
        assert words in shown.replace("│", "").replace("  ", " "), words
    assert "Note: columns of the data set that are not used: id." in shown
    again = json.loads(litc(url, "inspect", tmp_path / "reviews.csv", "--json").stdout)
    assert again["dataset_inspection"]["splits"]["train"]["counts"] == [1000, 100]
    by_id = json.loads(litc(url, "inspect", again["id"], "--json").stdout)
    assert by_id["dataset_inspection"] == again["dataset_inspection"]


@pytest.mark.parametrize("option", [("--architecture", "timm/resnet18"), ("--teacher-weights", "ema")])
def test_options_of_a_teacher_are_not_for_a_data_set(tmp_path: Path, option: tuple[str, str]) -> None:
    (tmp_path / "reviews.csv").write_text("1,good\n")
    done = litc(NOWHERE, "inspect", "--kind", "dataset", tmp_path / "reviews.csv", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option[0]} is for a teacher, but --kind is dataset" in done.stderr


def test_a_data_set_that_can_not_be_used_ends_with_a_sentence(
    compress: Compress, worker: ScriptedWorker, url: str, tmp_path: Path
) -> None:
    worker.dataset_inspection = JobError(type=ErrorType.BAD_DATASET, detail="the zip file is damaged", field=None)
    (tmp_path / "d.zip").write_bytes(b"PK")
    for done in (litc(url, "inspect", tmp_path / "d.zip"), compress("--dataset", tmp_path / "d.zip", "--depth", 14)):
        assert (done.returncode, "the zip file is damaged" in done.stderr) == (2, True), done


def test_a_teacher_for_texts_is_shown_checked_and_sent_with_what_its_tensors_leave_open(
    compress: Compress, worker: ScriptedWorker, url: str, teacher: Path, tmp_path: Path
) -> None:
    worker.inspection = resnet(
        {9: [1, 1, 1, 1], 17: [2, 2, 2, 2]},
        family="vdcnn",
        modality=Modality.TEXT,
        channels=None,
        classes=2,
        options={"downsampling": "maxpool", "vocabulary_size": 69},
        choices={"downsampling": ["maxpool", "conv", "kmaxpool"]},
    )
    worker.dataset_inspection = TEXTS
    shown = " ".join(litc(url, "inspect", teacher).stdout.split())
    assert "texts, 2 classes" in shown
    assert "teacher_options.downsampling=maxpool; it may be maxpool, conv, kmaxpool" in shown
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("1,good\n")
    wrong = compress("--dataset", reviews, "--depth", 9, "--set", "teacher_options.downsampling=stride")
    assert wrong.returncode == 2
    assert "teacher_options.downsampling" in wrong.stderr
    done = compress("--dataset", reviews, "--depth", 9, "--set", "teacher_options.downsampling=conv")
    assert done.returncode == 0, done.stderr
    assert the_request(url)["teacher_options"] == {"downsampling": "conv"}


def test_a_problem_of_the_service_is_a_sentence_and_2(url: str) -> None:
    done = litc(url, "job", "job_x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "job_x" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nobody_listening_is_a_sentence_and_1(teacher: Path) -> None:
    done = litc(NOWHERE, "inspect", teacher)
    assert done.returncode == 1
    assert "litc serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("cancel", "number"),
    [
        (False, signal.SIGINT),
        (True, signal.SIGTERM),
        # Each value is in one of the pairs above.
        pytest.param(False, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(True, signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_ctrl_c_and_sigterm_leave_the_job_running_unless_told_otherwise(
    url: str,
    worker: ScriptedWorker,
    bench: Bench,
    teacher: Path,
    tmp_path: Path,
    cancel: bool,
    number: signal.Signals,
) -> None:
    worker.ends, worker.events = JobState.RUNNING, [Event("epoch", {"phase": "lit", "epoch": 1, "epochs": 2})]
    words = ["compress", teacher, "--dataset", "digits", "--depth", "14", "-o", tmp_path / "out"]
    # A process that a shell's background job starts ignores SIGINT; this one must not.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from lit_client.command.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, words), *["--cancel-on-interrupt"][: int(cancel)]]
    process = subprocess.Popen(command, env=environment(url), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr is not None
        while "LIT 1/2" not in (line := process.stderr.readline()):
            assert line, "the command ended before it saw an epoch"
        process.send_signal(number)
        told = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    (job,) = jobs(url)
    assert job.cancel_requested == cancel
    assert (f"litc cancel {job.id}" in told) != cancel
    assert ("being cancelled" in told) == cancel


@pytest.mark.parametrize("fault", [Fault(lost=KeyboardInterrupt()), Fault(refused=KeyboardInterrupt())])
def test_an_interrupt_while_the_job_is_created_leaves_no_job_running(
    client: Client, transport: FaultyTransport, bench: Bench, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    body = {"teacher": bench.teacher(), "dataset": {"builtin": "digits"}, "student": {"depth": 14}}
    transport.faults["POST"].append(fault)
    with pytest.raises(typer.Exit) as ended:
        create_job(client, body, cancel_on_interrupt=True)
    assert ended.value.exit_code == 130
    (job,) = client.jobs()
    assert job.state == "cancelled"
    transport.faults["POST"].append(fault)
    with pytest.raises(KeyboardInterrupt):
        create_job(client, body, cancel_on_interrupt=False)


@pytest.mark.parametrize(
    ("words", "key", "advice"),
    [
        (("jobs",), "", "Set LIT_API_KEY to the secret of a key"),
        (("job", "job_x"), "", "Set LIT_API_KEY to the secret of a key"),
        (("download", "job_x", "-o", "out"), "", "Set LIT_API_KEY to the secret of a key"),
        (("study", "list"), "", "Set LIT_API_KEY to the secret of a key"),
        (("sections", "resnet18"), "lit_wrong", "The key is that of LIT_API_KEY"),
        (("jobs",), "lit_wrong", "The key is that of LIT_API_KEY"),
    ],
)
def test_without_a_valid_key_the_variable_is_named(
    url: str, bench: Bench, words: tuple[str, ...], key: str, advice: str
) -> None:
    with bench.database.session() as session:
        keys.create(session, "somebody's")
    done = litc(url, *words, **({"LIT_API_KEY": key} if key else {}))
    assert (done.returncode, done.stdout) == (2, "")
    assert advice in done.stderr


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:70000", "its port must be from 1 to 65535"),
        ("http://127.0.0.1:-1", "its port must be from 1 to 65535"),
        ("http://[::1", "Invalid port"),
        ("ftp://127.0.0.1", "it must begin with http:// or https:// and a host"),
        ("127.0.0.1:8000", "it must begin with http:// or https:// and a host"),
        ("http://", "it must begin with http:// or https:// and a host"),
    ],
)
def test_what_is_no_address_ends_with_2_and_names_the_option(address: str, reason: str) -> None:
    for done in (litc(NOWHERE, "jobs", "--url", address), litc(address, "jobs")):
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert f"is not the address of a service ({reason}" in line
        assert line.endswith("correct --url or LIT_URL.")


def test_epochs_are_told_line_by_line_where_no_terminal_is(compress: Compress, worker: ScriptedWorker) -> None:
    measured = {"phase": "lit", "epoch": 1, "epochs": 2, "fraction": 0.3, "metrics": {"student_accuracy": 91.25}}
    worker.events = [Event("epoch", measured)]
    assert "LIT 1/2  student 91.25 %" in compress("--dataset", "digits", "--depth", 14).stderr


def test_jobs_job_rerun_cancel_and_download_answer_in_json(url: str, bench: Bench, tmp_path: Path) -> None:
    teacher = bench.teacher()
    made = [bench.job(teacher=teacher, name=f"number {number}") for number in range(3)]
    assert [job["id"] for job in json.loads(litc(url, "jobs", "--json").stdout)] == made[::-1]
    assert [job["id"] for job in json.loads(litc(url, "jobs", "--name", "number 1", "--json").stdout)] == made[1:2]
    assert "number 2" in litc(url, "jobs").stdout
    assert json.loads(litc(url, "job", made[1], "--json").stdout)["state"] == "queued"
    assert json.loads(litc(url, "cancel", made[1], "--json").stdout)["state"] == "cancelled"
    again = litc(url, "rerun", made[1], "--set", "seed=3").stdout.strip()
    assert bench.row(again).request["seed"] == 3
    with ScriptedWorker(bench), Client(url) as client:
        client.wait_job(made[0], timeout=20)
    files = json.loads(litc(url, "download", made[0], "-o", tmp_path / "d", "--json").stdout)
    assert files[0]["path"] == str(tmp_path / "d/model.safetensors")


def test_download_of_a_job_without_files_fails_with_a_sentence(url: str, bench: Bench, tmp_path: Path) -> None:
    job = bench.job()
    done = litc(url, "download", job, "-o", tmp_path / "d", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{job} has no files: only a job that has succeeded has any.\n"
    assert not (tmp_path / "d").exists()


def test_log_of_an_earlier_attempt(url: str, bench: Bench) -> None:
    job = bench.job()
    for number, text in ((1, b"the first"), (2, b"the last")):
        claim = take(bench)
        bench.storage.put_bytes(f"jobs/{job}/{number}/trainer.log", text)
        with bench.database.session() as session:
            attempts.release(session, claim)
    assert litc(url, "log", job, "--attempt", 1).stdout == "the first"
    assert litc(url, "log", job).stdout == "the last"


def test_inspection_in_a_pipe_has_the_upload_in_its_first_line(url: str, worker: ScriptedWorker, teacher: Path) -> None:
    worker.inspection = resnet({20: [3, 3, 3]})
    first, *table = litc(url, "inspect", teacher).stdout.splitlines()
    assert first.startswith("teacher.safetensors: resnet_cifar, depth 20, 9 parameters")
    with Client(url) as client:
        (upload,) = client.uploads()
    assert first.endswith(f"({upload.id})")
    assert any("3, 3, 3" in line for line in table)


def test_weights_are_chosen_and_an_inspection_says_how_to_take_the_others(
    compress: Compress, worker: ScriptedWorker, url: str, teacher: Path
) -> None:
    both = [TeacherWeights.RAW, TeacherWeights.EMA]
    found = resnet({14: [2, 2, 2], 20: [3, 3, 3]})
    worker.inspection = found.model_copy(update={"weights": TeacherWeights.RAW, "weights_choices": both})
    assert "To take its other weights: --teacher-weights ema." in litc(url, "inspect", teacher).stdout
    worker.inspection = found.model_copy(update={"weights": TeacherWeights.EMA, "weights_choices": both})
    assert "other weights: --teacher-weights raw." in litc(url, "inspect", teacher, "--teacher-weights", "ema").stdout
    done = compress("--dataset", "digits", "--depth", 14, "--teacher-weights", "ema")
    assert done.returncode == 0, done.stderr
    assert the_request(url)["teacher_weights"] == "ema"
    with Client(url) as client:
        (upload,) = client.uploads()
    assert upload.teacher_weights == "ema"


def test_an_inspection_shows_flops_and_latency_where_they_were_measured(
    url: str, worker: ScriptedWorker, teacher: Path
) -> None:
    found = resnet({14: [2, 2, 2], 20: [3, 3, 3]})
    small, whole = found.students
    costs = BlockCosts(total=1, blocks=[])
    worker.inspection = found.model_copy(
        update={
            "students": [
                small.model_copy(update={"flops": 20_000_000, "latency_ms": 2.0}),
                whole.model_copy(update={"flops": 30_000_000, "latency_ms": 5.0}),
            ],
            "input_shape": [1, 32, 32],
            "flops": costs,
            "latency": InspectedLatency(device="cpu", threads=2, nanoseconds=costs),
        }
    )
    shown = litc(url, "inspect", teacher).stdout
    (row,) = [line.split("│")[1:-1] for line in shown.splitlines() if "2, 2, 2" in line]
    assert [cell.strip() for cell in row] == ["14", "2, 2, 2", "9", "1.000", "20.0", "1.500", "2.00", "2.500"]
    assert (
        "FLOPs of one input of 1x32x32. Latency of one such input on the inspecting machine (cpu, 2 threads)" in shown
    )


def test_a_speedup_is_a_target_of_the_request(compress: Compress, url: str) -> None:
    done = compress("--dataset", "digits", "--speedup", 1.5)
    assert done.returncode == 0, done.stderr
    assert the_request(url)["student"] == {"target": {"latency_ratio": 1.5}}


def test_sections_of_a_network_and_of_names(url: str) -> None:
    assert "timm/resnet18" in litc(url, "sections", "resnet18").stdout
    shown = litc(url, "sections", "torchvision/resnet18").stdout
    assert "layer1.0" in shown
    assert "MFLOPs" in shown
    assert "FLOPs of one image of 64x64 pixels." in shown
    wrong = litc(url, "sections", "resnot")
    assert (wrong.returncode, "did you mean" in wrong.stderr) == (1, True)


def test_a_command_of_the_service_can_follow_another_command_in_one_process() -> None:
    helped = litc(NOWHERE, "--help").stdout
    assert "revoke" in litc(NOWHERE, "keys", "--help").stdout
    assert litc(NOWHERE, "--help").stdout == helped


def test_service_commands_explain_themselves_outside_a_checkout(tmp_path: Path) -> None:
    for package in ("lit_client", "lit_core", "lit_spec"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = litc_process(NOWHERE, "serve", "--port", "0", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "checkout" in done.stderr
    assert "serve" in litc_process(NOWHERE, "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout
